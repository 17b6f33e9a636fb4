# niels-chat completion bash >> ~/.bash_completion
_niels_chat_names() {
  local name
  while IFS= read -r name; do
    COMPREPLY+=("$(printf %q "$name")")
  done
}
_niels_chat_sessions() { _niels_chat_names < <(niels-chat sessions --names="$1" 2>/dev/null); }
_niels_chat_personas() { _niels_chat_names < <(niels-chat config --personas 2>/dev/null | grep "^$1"); }
_niels_chat() {
  local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" command=""
  COMPREPLY=()
  (( COMP_CWORD > 1 )) && case "${COMP_WORDS[1]}" in sessions|show|last|search|rename|delete|restore|export|import|replay|audit|verify|why|models|backup|doctor|config|completion)
    command="${COMP_WORDS[1]}" ;;
  esac
  case "$command $before" in
    " --session") _niels_chat_sessions "$word"; return ;;
    " -p"|" --prompt") return ;;
    " -f"|" --file") return ;;
    " --temperature") return ;;
    " --top-k") return ;;
    " --top-p") return ;;
    " --repetition-penalty") return ;;
    " --min-p") return ;;
    " --typical-p") return ;;
    " --frequency-penalty") return ;;
    " --presence-penalty") return ;;
    " --max-new-tokens") return ;;
    " --seed") return ;;
    " --keep-stopped")
      COMPREPLY=($(compgen -W "on off" -- "$word")); return ;;
    " --ckpt") return ;;
    " --store") return ;;
    " --system") return ;;
    " --device")
      COMPREPLY=($(compgen -W "cpu auto mps cuda torch:cuda" -- "$word")); return ;;
    " --weights")
      COMPREPLY=($(compgen -W "float32 int8 q8 q4" -- "$word")); return ;;
    " --threads") return ;;
    " --persona") _niels_chat_personas "$word"; return ;;
    " --system-file") return ;;
    "sessions --store") return ;;
    "sessions --limit") return ;;
    "sessions --offset") return ;;
    "sessions --names") return ;;
    "show --store") return ;;
    "last --store") return ;;
    "search --store") return ;;
    "search --limit") return ;;
    "search --offset") return ;;
    "rename --store") return ;;
    "delete --store") return ;;
    "restore --store") return ;;
    "export --format")
      COMPREPLY=($(compgen -W "jsonl openai sharegpt markdown html" -- "$word")); return ;;
    "export --output"|"export -o") return ;;
    "export --store") return ;;
    "import --format")
      COMPREPLY=($(compgen -W "auto jsonl openai sharegpt chatgpt llm" -- "$word")); return ;;
    "import --name") return ;;
    "import --store") return ;;
    "replay --store") return ;;
    "replay --turn") return ;;
    "replay --speed") return ;;
    "replay --ckpt") return ;;
    "replay --device")
      COMPREPLY=($(compgen -W "cpu auto mps cuda torch:cuda" -- "$word")); return ;;
    "replay --batch") return ;;
    "audit --output"|"audit -o") return ;;
    "audit --shard") return ;;
    "audit --sample") return ;;
    "audit --sample-key") return ;;
    "audit --ckpt") return ;;
    "audit --device")
      COMPREPLY=($(compgen -W "cpu auto mps cuda torch:cuda" -- "$word")); return ;;
    "audit --threads") return ;;
    "audit --batch") return ;;
    "audit --ray") return ;;
    "verify --store") return ;;
    "why --store") return ;;
    "why --turn") return ;;
    "why --token") return ;;
    "why --layer") return ;;
    "why --html") return ;;
    "why --svg") return ;;
    "why --ckpt") return ;;
    "why --device")
      COMPREPLY=($(compgen -W "cpu auto mps cuda torch:cuda" -- "$word")); return ;;
    "models --folder") return ;;
    "backup --store") return ;;
    "doctor --store") return ;;
    "config --temperature") return ;;
    "config --top-k") return ;;
    "config --top-p") return ;;
    "config --repetition-penalty") return ;;
    "config --min-p") return ;;
    "config --typical-p") return ;;
    "config --frequency-penalty") return ;;
    "config --presence-penalty") return ;;
    "config --max-new-tokens") return ;;
    "config --seed") return ;;
    "config --keep-stopped")
      COMPREPLY=($(compgen -W "on off" -- "$word")); return ;;
    "config --ckpt") return ;;
    "config --store") return ;;
    "config --system") return ;;
    "config --device")
      COMPREPLY=($(compgen -W "cpu auto mps cuda torch:cuda" -- "$word")); return ;;
    "config --weights")
      COMPREPLY=($(compgen -W "float32 int8 q8 q4" -- "$word")); return ;;
    "config --threads") return ;;
    "completion --program")
      COMPREPLY=($(compgen -W "niels-chat niels-generate" -- "$word")); return ;;
  esac
  case "$command" in
    "")
      COMPREPLY+=($(compgen -W "-h --help --session -c --continue --pick -p --prompt -f --file --no-session --json --version --temperature --top-k --top-p --repetition-penalty --min-p --typical-p --frequency-penalty --presence-penalty --max-new-tokens --seed --keep-stopped --ckpt --store --system --device --weights --threads --speculation --no-speculation --markdown --no-markdown --vi --no-vi --quiet --no-quiet --greedy --persona --system-file --no-kv-cache sessions show last search rename delete restore export import replay audit verify why models backup doctor config completion" -- "$word")) ;;
    sessions)
      COMPREPLY+=($(compgen -W "-h --help --store --json --limit --offset --archived --names" -- "$word")) ;;
    show)
      [[ "$word" == -* ]] || _niels_chat_sessions "$word"
      COMPREPLY+=($(compgen -W "-h --help -c --continue --store --json --tree" -- "$word")) ;;
    last)
      [[ "$word" == -* ]] || _niels_chat_sessions "$word"
      COMPREPLY+=($(compgen -W "-h --help --store -x --extract --copy" -- "$word")) ;;
    search)
      COMPREPLY+=($(compgen -W "-h --help --store --json --limit --offset" -- "$word")) ;;
    rename)
      COMPREPLY+=($(compgen -W "-h --help --store" -- "$word")) ;;
    delete)
      [[ "$word" == -* ]] || _niels_chat_sessions "$word"
      COMPREPLY+=($(compgen -W "-h --help --store --purge --yes" -- "$word")) ;;
    restore)
      [[ "$word" == -* ]] || _niels_chat_sessions "$word"
      COMPREPLY+=($(compgen -W "-h --help --store" -- "$word")) ;;
    export)
      [[ "$word" == -* ]] || _niels_chat_sessions "$word"
      COMPREPLY+=($(compgen -W "-h --help -c --continue --all --format --output -o --force --store" -- "$word")) ;;
    import)
      COMPREPLY+=($(compgen -W "-h --help --format --name --strict --skip-bad --store" -- "$word")) ;;
    replay)
      [[ "$word" == -* ]] || _niels_chat_sessions "$word"
      COMPREPLY+=($(compgen -W "-h --help -c --continue --store --json --turn --every-branch --watch --speed --ckpt --device --batch" -- "$word")) ;;
    audit)
      COMPREPLY+=($(compgen -W "-h --help --output -o --force --shard --merge --sample --sample-key --ckpt --device --threads --batch --ray" -- "$word")) ;;
    verify)
      [[ "$word" == -* ]] || _niels_chat_sessions "$word"
      COMPREPLY+=($(compgen -W "-h --help -c --continue --store --json" -- "$word")) ;;
    why)
      [[ "$word" == -* ]] || _niels_chat_sessions "$word"
      COMPREPLY+=($(compgen -W "-h --help -c --continue --store --json --turn --token --layer --html --svg --ckpt --device" -- "$word")) ;;
    models)
      [[ "$word" == -* ]] || _niels_chat_sessions "$word"
      COMPREPLY+=($(compgen -W "-h --help --folder --json" -- "$word")) ;;
    backup)
      COMPREPLY+=($(compgen -W "-h --help --store" -- "$word")) ;;
    doctor)
      COMPREPLY+=($(compgen -W "-h --help --store --json --recover --yes" -- "$word")) ;;
    config)
      COMPREPLY+=($(compgen -W "-h --help --json --personas --temperature --top-k --top-p --repetition-penalty --min-p --typical-p --frequency-penalty --presence-penalty --max-new-tokens --seed --keep-stopped --ckpt --store --system --device --weights --threads --speculation --no-speculation --markdown --no-markdown --vi --no-vi --quiet --no-quiet" -- "$word")) ;;
    completion)
      COMPREPLY+=($(compgen -W "-h --help --program" -- "$word")) ;;
  esac
}
complete -o default -F _niels_chat niels-chat
