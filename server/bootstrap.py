"""From settings to something that answers: tokenizer, network, engine and service put together."""

from collections.abc import Callable
from pathlib import Path

import torch

import model
from model.chat_template import ChatTemplate
from model.loading import load_network
from model.prompts import prompts_for
from model.tokenizer import Tokenizer
from server.app import Backend
from server.engine.async_engine import AsyncEngine
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.metrics import Metrics
from server.service import GenerationService
from server.settings import Settings

BUNDLED = Path(model.__file__).parent / "bundled"
SMALL_MODEL_BYTES = 64 * 2**20
DTYPES = {"auto": None, "bfloat16": torch.bfloat16, "float32": torch.float32}


def prepare_backend(settings: Settings) -> Callable[[], Backend]:
    """Load everything, which takes seconds. What is returned starts the engine; call it on the event loop.

    Raises ValueError, with what to do, for a checkpoint that cannot be served.
    """
    directory = BUNDLED if settings.model == "bundled" else Path(settings.model)
    tokenizer = Tokenizer.load(directory)
    device = _device(settings)
    network = load_network(directory, DTYPES[settings.dtype], pack=device == "cpu").to(device)
    torch.set_num_threads(settings.threads or default_threads(directory))
    max_model_len = settings.max_model_len or network.config.max_positions
    engine = Engine(
        network,
        EngineConfig(
            max_model_len=max_model_len,
            eos_token_ids=frozenset(tokenizer.eos_token_ids),
            max_num_seqs=settings.max_num_seqs,
            max_num_batched_tokens=settings.max_num_batched_tokens,
            max_queue=settings.max_queue,
            cache_bytes=settings.cache_bytes,
            seed=settings.seed,
        ),
        device=device,
    )
    model_id = settings.served_model_name or ("routelm" if directory == BUNDLED else directory.name)

    def open_backend() -> Backend:
        client = AsyncEngine(engine)
        metrics = Metrics(model_id, client.stats)
        service = GenerationService(
            client,
            tokenizer,
            _chat_template(directory),
            prompts_for(tokenizer.special_tokens),
            model_id=model_id,
            max_model_len=max_model_len,
            observer=metrics,
        )
        return Backend(service, metrics)

    return open_backend


def default_threads(directory: Path) -> int:
    """One for a small model, which gains little from a second; that core then serves HTTP. See docs/performance.md."""
    weights = sum(path.stat().st_size for path in directory.glob("*.safetensors"))
    return 1 if weights < SMALL_MODEL_BYTES else torch.get_num_threads()


def _device(settings: Settings) -> str:
    if settings.device != "auto":
        return settings.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _chat_template(directory: Path) -> ChatTemplate | None:
    try:
        return ChatTemplate.load(directory)
    except ValueError:
        return None  # plain completions still work; the chat endpoints say why they do not
