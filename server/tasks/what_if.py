"""What other experts do to a text: the log-probabilities of its tokens as the model is, and with changed routing."""

from dataclasses import dataclass

from server.engine.types import RoutingParams
from server.generation.admission import Admission
from server.generation.logprobs import DecodedToken
from server.generation.prompt import Prompt
from server.tasks.label_scoring import SCORING
from server.tasks.sub_generations import run_sub_generations


@dataclass(frozen=True, slots=True)
class ComparedToken:
    """A token of the text and its two log-probabilities in nats."""

    token: DecodedToken
    logprob: float
    changed_logprob: float


async def compare_routing(admission: Admission, prompt: Prompt, changed: RoutingParams) -> list[ComparedToken]:
    """Score the tokens of a prompt after its last boundary, without the first of all, which nothing precedes.

    The `changed` routing comes first, so that what the model cannot do is refused before anything is computed; then
    the routing of the admission. Raises what `run_sub_generations` raises.
    """
    [other] = await run_sub_generations(admission, [prompt], SCORING, routing=changed)
    [plain] = await run_sub_generations(admission, [prompt], SCORING)
    return [
        ComparedToken(before.chosen, before.chosen.known_logprob, after.chosen.known_logprob)
        for before, after in zip(plain.prompt_logprobs, other.prompt_logprobs, strict=True)
    ]
