"""A reply that was begun by an earlier version of the server is made again, or refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from niels_gpt.conversation.context import TextMessage, prompt_hash
from niels_gpt.conversation.planning import Plan, fit_turn
from niels_gpt.conversation.settings import Settings
from niels_gpt.server.errors import ApiError
from niels_gpt.server.plans import ServerPlanner
from sessions import Generation

PATH = [
    TextMessage(role=role, content=f"{text} {n} " * 6)
    for n in range(30)
    for role, text in (("user", "question"), ("assistant", "reply"))
]
SETTINGS = Settings(max_new_tokens=40)


def stored(plan: Plan, its_hash: str, **environment: object) -> Generation:
    """The plan as the store has it, with another prompt and other circumstances."""
    asked = replace(
        plan.generation,
        prompt_hash=its_hash,
        environment={**plan.generation.environment, **environment},
    )
    return Generation(
        **vars(asked), id=1, session_id=1, user_message_id=1, reply_id=None, status="pending",
        finish_reason=None, receipt=None, timings=None, error=None, digest=None,
        created=datetime.now(UTC), finished=None,
    )  # fmt: skip


def test_a_reply_begun_under_an_older_context_rule_is_made_again_under_it(model: Any) -> None:
    planner = ServerPlanner(model, 1)
    plan = planner.plan(PATH, "now", SETTINGS)
    older = fit_turn(model, SETTINGS, PATH, "now", rule=2)
    assert older.prompt_ids != plan.request.prompt_ids  # the rules differ here
    generation = stored(plan, prompt_hash(older.prompt_ids), context_rule=2)
    assert planner.again(PATH, "now", generation).prompt_ids == older.prompt_ids


def test_a_reply_of_other_arithmetic_is_refused(model: Any) -> None:
    planner = ServerPlanner(model, 1)
    plan = planner.plan(PATH, "now", SETTINGS)
    generation = stored(plan, plan.generation.prompt_hash, kernel_version=0)
    with pytest.raises(ApiError, match="another version of its arithmetic"):
        planner.again(PATH, "now", generation)
