"""Open what the options name: the store, the session and the model. Their errors become LoadFailed here.

Store and model open on threads of their own, so neither function imports what only the other needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from niels_gpt.conversation.errors import LoadFailed
from niels_gpt.conversation.options import ChatOptions
from niels_gpt.errors import NielsGptError

if TYPE_CHECKING:
    from niels_gpt.conversation.session import ConversationSession
    from niels_gpt.decoding.backend import Backend
    from sessions import Store


def open_store(options: ChatOptions) -> Store:
    """Open the store that the options name. Raises LoadFailed."""
    import sessions  # noqa: PLC0415 - SQLAlchemy

    try:
        # A folder that was mistyped is not created, and a new store with a name is announced.
        named = options.store is not None and not options.ephemeral
        return sessions.open_store(options.store, missing="create file" if named else "create")
    except sessions.StoreError as error:
        raise LoadFailed(str(error)) from error


def session_for(store: Store, options: ChatOptions) -> ConversationSession:
    """Return the session that the options name; call `open` on it."""
    from niels_gpt.conversation.session import ConversationSession  # noqa: PLC0415 - the store

    return ConversationSession(store, name=options.session, settings=options.settings, system=options.system)


def open_model(options: ChatOptions, *, on_progress: Callable[[int, int], None] | None = None) -> Backend:
    """Load the checkpoint that the options name, ready to generate.

    Args:
        options: The checkpoint, the device, the form of the weights and the threads.
        on_progress: Called with (kernels compiled, kernels in all) while they are compiled.

    Raises:
        LoadFailed: The checkpoint cannot be used, or not in this form.
    """
    from niels_gpt.decoding.backend import open_backend  # noqa: PLC0415 - heavy
    from niels_gpt.device import device_named, torch_device  # noqa: PLC0415
    from niels_gpt.model.loading import load_model  # noqa: PLC0415

    try:
        device = device_named(options.device)
        return open_backend(
            load_model(options.checkpoint, device=torch_device(device)),
            device=device,
            weights=options.weights,
            threads=options.threads,
            use_cache=options.use_cache,
            speculation=options.speculation,
            on_progress=on_progress,
        )
    except NielsGptError as error:
        raise LoadFailed(str(error)) from error
