# niels-chat completion bash --program niels-generate >> ~/.bash_completion
_niels_generate() {
  local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" command=""
  COMPREPLY=()
  case "$command $before" in
    " --model"|" --checkpoint_path") return ;;
    " --prompt") return ;;
    " --prompts") return ;;
    " --input_format")
      COMPREPLY=($(compgen -W "auto text jsonl" -- "$word")); return ;;
    " --prompt_tokens") return ;;
    " --num_return_sequences"|" --num_samples") return ;;
    " --max_new_tokens") return ;;
    " --system") return ;;
    " --output") return ;;
    " --shard") return ;;
    " --ray") return ;;
    " --format")
      COMPREPLY=($(compgen -W "text jsonl" -- "$word")); return ;;
    " --temperature") return ;;
    " --top_k") return ;;
    " --top_p") return ;;
    " --min_p") return ;;
    " --typical_p") return ;;
    " --repetition_penalty") return ;;
    " --frequency_penalty") return ;;
    " --presence_penalty") return ;;
    " --eos_token_id") return ;;
    " --stop") return ;;
    " --ban") return ;;
    " --num_beams") return ;;
    " --length_penalty") return ;;
    " --seed") return ;;
    " --device")
      COMPREPLY=($(compgen -W "cpu auto mps cuda torch:cuda" -- "$word")); return ;;
    " --batch_size") return ;;
    " --threads") return ;;
    " --weights")
      COMPREPLY=($(compgen -W "float32 int8 q8 q4" -- "$word")); return ;;
    " --vocab_size") return ;;
  esac
  case "$command" in
    "")
      COMPREPLY+=($(compgen -W "-h --help --model --checkpoint_path --interactive --prompt --prompts --input_format --prompt_tokens --num_return_sequences --num_samples --max_new_tokens --raw --chat --system --output --force --shard --merge --ray --format --stream --temperature --top_k --top_p --min_p --typical_p --repetition_penalty --frequency_penalty --presence_penalty --eos_token_id --stop --ban --num_beams --length_penalty --seed --device --batch_size --threads --weights --vocab_size" -- "$word")) ;;
  esac
}
complete -o default -F _niels_generate niels-generate
