"""How many tokens of KV cache a model leaves room for on some GPUs, and how many GPUs hold so many tokens.

    ls.kv_cache.tokens_of_cache("llama-3.1-8b", "rtx-4090")            # 40,624; vLLM 0.19 reported 41,408
    print(ls.kv_cache.room("llama-2-70b", "h100", count=8))            # where the memory goes
    ls.kv_cache.gpus_for(200_000, "llama-3.1-70b")                     # the fewest of each GPU, and how full they are

Per GPU, with tensor parallelism over `count` GPUs (Kwon et al., PagedAttention, SOSP 2023, Section 3; the rule is that
of vLLM, which measures the reserve in a trial run):

    tokens = (memory x utilization - weights / count - reserve) / (2 x layers x KV heads / count x head size x bytes)

The 2 is for keys and values. The reserve is what activations, CUDA graphs and communication take: the only term that
no file states. 1.25 GiB is what three published runs of vLLM left, within 6 %; others left 0.3 GiB, or 9 GiB where the
trial run took long prompts in one piece. Where the weights nearly fill the GPUs, the answer is as uncertain as the
reserve. The errors against published figures are in docs/how-to/size-the-cache.md.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType

from ..errors import InputError, nearest
from ..workloads.argument_checks import whole
from .blocks import down_to_blocks, whole_blocks

__all__ = ["DTYPES", "GPU", "RESERVE", "Fit", "Model", "Room", "gpus", "gpus_for", "models", "room", "tokens_of_cache"]

GIB = 2**30

#: Memory of a GPU that neither weights nor cache get, in bytes: see the module's text.
RESERVE = 1.25 * GIB

#: Number format -> bytes of a number.
DTYPES: Mapping[str, float] = MappingProxyType(
    {"float32": 4, "float16": 2, "bfloat16": 2, "fp8": 1, "int8": 1, "int4": 0.5}
)


@dataclasses.dataclass(frozen=True)
class Model:
    """The shape of a decoder with gated feed-forward layers (Llama, Mistral, Qwen), as its config.json gives it.

    Raises InputError for a number that is not whole or below 1.

    Attributes
    ----------
    layers, hidden, intermediate, heads, kv_heads, vocabulary
        num_hidden_layers, hidden_size, intermediate_size, num_attention_heads, num_key_value_heads, vocab_size.
    head_size
        Size of a head; None for hidden / heads.
    experts
        Experts of a feed-forward layer; 1 without a mixture.
    bias
        Whether queries, keys and values have a bias.
    tied
        Whether the output layer shares the embedding.
    source
        Where the numbers come from.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    head_size: int | None = None
    experts: int = 1
    bias: bool = False
    tied: bool = False
    source: str = dataclasses.field(default="", compare=False)

    def __post_init__(self) -> None:
        for name in ("layers", "hidden", "intermediate", "heads", "kv_heads", "vocabulary", "experts"):
            object.__setattr__(self, name, whole(f"model {name}", getattr(self, name), 1))
        size = self.hidden // self.heads if self.head_size is None else whole("model head_size", self.head_size, 1)
        object.__setattr__(self, "head_size", size)

    @property
    def size_of_head(self) -> int:
        """`head_size`, as a number."""
        assert self.head_size is not None
        return self.head_size

    @property
    def parameters(self) -> int:
        """How many numbers the weights are: embeddings, attention, feed-forward, routers and norms."""
        attention = self.size_of_head * 2 * (self.heads + self.kv_heads) * self.hidden
        attention += self.size_of_head * (self.heads + 2 * self.kv_heads) if self.bias else 0
        router = self.hidden * self.experts if self.experts > 1 else 0
        layer = attention + 3 * self.hidden * self.intermediate * self.experts + router + 2 * self.hidden
        return self.layers * layer + self.vocabulary * self.hidden * (1 if self.tied else 2) + self.hidden

    def bytes_per_token(self, dtype: str = "bfloat16") -> float:
        """Bytes of a token in the cache: 2 (keys, values) x layers x KV heads x head size x bytes of `dtype`."""
        return 2 * self.layers * self.kv_heads * self.size_of_head * _bytes_of(dtype)


@dataclasses.dataclass(frozen=True)
class GPU:
    """A GPU: `memory` in bytes, as CUDA reports it (a little less than the data sheet says), and its `source`."""

    memory: float
    source: str = dataclasses.field(default="", compare=False)

    def __post_init__(self) -> None:
        _positive("the memory of a GPU", self.memory)


@dataclasses.dataclass(frozen=True)
class Room:
    """Where the memory of `count` GPUs goes; bytes are those of one GPU.

    Attributes
    ----------
    memory, weights, reserve, cache
        Bytes of the GPU, of its share of the weights, of what is kept free for activations, and of the cache.
    unused
        What `utilization` leaves alone.
    bytes_per_token
        Of cache, on one GPU.
    tokens
        Tokens of cache that the GPUs hold together, in whole blocks.
    count, utilization
        As asked for.
    """

    memory: float
    weights: float
    reserve: float
    cache: float
    unused: float
    bytes_per_token: float
    tokens: int
    count: int
    utilization: float

    def __str__(self) -> str:
        parts = ", ".join(
            f"{name} {getattr(self, name) / GIB:.2f}" for name in ("weights", "reserve", "cache", "unused")
        )
        return (
            f"{self.tokens:,} tokens of cache on {self.count} x {self.memory / GIB:.2f} GiB at {self.utilization:.0%}: "
            f"{parts} GiB per GPU, {self.bytes_per_token / 1024:.4g} KiB per token and GPU"
        )


@dataclasses.dataclass(frozen=True)
class Fit:
    """GPUs that hold a cache: the fewest of a kind, the tokens they hold, and the utilization that is just enough."""

    gpu: str
    count: int
    tokens: int
    utilization: float

    def __str__(self) -> str:
        return f"{self.count} x {self.gpu}: room for {self.tokens:,} tokens; {self.utilization:.0%} of its memory do"


def room(
    model: str | Model,
    gpu: str | GPU,
    count: int = 1,
    *,
    dtype: str = "bfloat16",
    cache_dtype: str | None = None,
    utilization: float = 0.9,
    reserve: float = RESERVE,
    block: int = 16,
) -> Room:
    """Where the memory goes, and how many tokens of cache there is room for (formula: see the module's text).

    Parameters
    ----------
    model, gpu
        Names (see `models`, `gpus`), or a `Model` and a `GPU` of one's own.
    count
        GPUs that share every layer (tensor parallelism): a divisor of the attention heads. KV heads are shared as well,
        and repeated where there are fewer of them than GPUs.
    dtype, cache_dtype
        Number format of all weights and of the cache (`DTYPES`); None: that of the weights if these are floats of 16
        bits or more, else bfloat16, as in vLLM. Quantised checkpoints keep some layers in 16 bits and are larger than
        this says: Llama-3.1-405B in FP8 takes 57.8 GiB on each of 8 GPUs (vLLM issue 6746), not 47.2.
    utilization
        Share of the GPU's memory that is used at all, in (0, 1]: vLLM's gpu_memory_utilization.
    reserve
        Bytes per GPU for activations, CUDA graphs and communication.
    block
        Tokens of a block: the answer is in whole blocks.

    Raises
    ------
    InputError
        A name or format is unknown (the nearest is suggested), a number is out of range, or not even the weights fit
        (says how much is missing).
    """
    model, gpu = _model(model), _gpu(gpu)
    count, block = whole("count", count, 1), whole("block", block, 1)
    if model.heads % count:
        raise InputError(f"{model.heads} attention heads cannot be shared by {count} GPUs: take a divisor of them")
    if not (isinstance(utilization, (int, float)) and 0 < utilization <= 1):
        raise InputError(f"utilization={utilization!r} must be a number greater than 0, up to 1")
    _positive("reserve", reserve, least=0)
    if cache_dtype is None:
        cache_dtype = dtype if _bytes_of(dtype) >= 2 else "bfloat16"
    usable = gpu.memory * utilization
    weights = model.parameters * _bytes_of(dtype) / count
    cache = usable - weights - reserve
    heads = max(model.kv_heads / count, 1.0)
    per_token = model.bytes_per_token(cache_dtype) * heads / model.kv_heads
    tokens = down_to_blocks(int(cache / per_token), block)
    if tokens < block:
        needed = weights + reserve + per_token * block
        raise InputError(
            f"no room for a cache: weights and reserve take {(weights + reserve) / GIB:.1f} of {usable / GIB:.1f} GiB "
            f"per GPU ({(needed - usable) / GIB:.2g} GiB are missing): take more GPUs, larger ones, or a smaller dtype"
        )
    return Room(gpu.memory, weights, reserve, cache, gpu.memory - usable, per_token, tokens, count, utilization)


def tokens_of_cache(
    model: str | Model,
    gpu: str | GPU,
    count: int = 1,
    *,
    dtype: str = "bfloat16",
    cache_dtype: str | None = None,
    utilization: float = 0.9,
    reserve: float = RESERVE,
    block: int = 16,
) -> int:
    """How many tokens of KV cache `count` GPUs hold beside the model's weights. Parameters and errors: see `room`."""
    return room(
        model,
        gpu,
        count,
        dtype=dtype,
        cache_dtype=cache_dtype,
        utilization=utilization,
        reserve=reserve,
        block=block,
    ).tokens


def gpus_for(
    tokens: int,
    model: str | Model,
    among: Mapping[str, GPU] | None = None,
    *,
    most: int = 8,
    dtype: str = "bfloat16",
    cache_dtype: str | None = None,
    utilization: float = 0.9,
    reserve: float = RESERVE,
    block: int = 16,
) -> list[Fit]:
    """Of each GPU in `among` (all of `gpus`), the fewest that hold `tokens` of cache: fewest first, then least room.

    GPUs of which `most` are not enough are left out. `Fit.utilization` is the least share of their memory that is
    enough. Parameters and errors are those of `room`; counts are powers of 2, as engines want them.
    """
    tokens, most = whole("tokens", tokens, 1), whole("most", most, 1)
    shape = _model(model)
    found = []
    for name, gpu in (gpus if among is None else among).items():
        for count in (2**k for k in range(most.bit_length()) if shape.heads % 2**k == 0):
            try:
                there = room(
                    shape,
                    gpu,
                    count,
                    dtype=dtype,
                    cache_dtype=cache_dtype,
                    utilization=utilization,
                    reserve=reserve,
                    block=block,
                )
            except InputError:
                if count == 1:  # a mistake in the options must not look like a GPU that is too small
                    room(shape, GPU(2.0**60), 1, dtype=dtype, cache_dtype=cache_dtype, reserve=reserve, block=block)
                continue
            if there.tokens >= tokens:
                needed = there.weights + there.reserve + whole_blocks(tokens, block) * there.bytes_per_token
                found.append(Fit(name, count, there.tokens, needed / gpu.memory))
                break
    return sorted(found, key=lambda fit: (fit.count, fit.tokens))


def _bytes_of(dtype: str) -> float:
    if dtype not in DTYPES:
        raise InputError(f"there is no number format {dtype!r}; {nearest(str(dtype), DTYPES)}")
    return DTYPES[dtype]


def _positive(what: str, value: object, least: float | None = None) -> None:
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    if not (math.isfinite(number) and (number > 0 if least is None else number >= least)):
        raise InputError(f"{what} is {value!r}, expected a number of bytes{'' if least is not None else ' above 0'}")


def _model(model: str | Model) -> Model:
    if isinstance(model, Model):
        return model
    if not isinstance(model, str) or model.lower() not in models:
        raise InputError(f"there is no model {model!r}; {nearest(str(model).lower(), models)}; or a kv_cache.Model")
    return models[model.lower()]


def _gpu(gpu: str | GPU) -> GPU:
    if isinstance(gpu, GPU):
        return gpu
    if not isinstance(gpu, str) or gpu.lower() not in gpus:
        raise InputError(f"there is no GPU {gpu!r}; {nearest(str(gpu).lower(), gpus)}; or a kv_cache.GPU")
    return gpus[gpu.lower()]


_Shape = tuple[int, int, int, int, int, int]  # layers, hidden, intermediate, heads, KV heads, vocabulary


def _published(name: str, shape: _Shape, experts: int = 1, bias: bool = False, tied: bool = False) -> Model:
    layers, hidden, intermediate, heads, kv_heads, vocabulary = shape
    source = f"config.json of {name} on Hugging Face"
    return Model(
        layers, hidden, intermediate, heads, kv_heads, vocabulary, experts=experts, bias=bias, tied=tied, source=source
    )


#: Named models: name -> Model, each with its source.
models: Mapping[str, Model] = MappingProxyType(
    {
        "llama-2-7b": _published("meta-llama/Llama-2-7b-hf", (32, 4096, 11008, 32, 32, 32000)),
        "llama-2-13b": _published("meta-llama/Llama-2-13b-hf", (40, 5120, 13824, 40, 40, 32000)),
        "llama-2-70b": _published("meta-llama/Llama-2-70b-hf", (80, 8192, 28672, 64, 8, 32000)),
        "llama-3.1-8b": _published("meta-llama/Llama-3.1-8B", (32, 4096, 14336, 32, 8, 128256)),
        "llama-3.1-70b": _published("meta-llama/Llama-3.1-70B", (80, 8192, 28672, 64, 8, 128256)),
        "llama-3.1-405b": _published("meta-llama/Llama-3.1-405B", (126, 16384, 53248, 128, 8, 128256)),
        "mistral-7b": _published("mistralai/Mistral-7B-v0.1", (32, 4096, 14336, 32, 8, 32000)),
        "mixtral-8x7b": _published("mistralai/Mixtral-8x7B-v0.1", (32, 4096, 14336, 32, 8, 32000), experts=8),
        "qwen2.5-1.5b": _published("Qwen/Qwen2.5-1.5B", (28, 1536, 8960, 12, 2, 151936), bias=True, tied=True),
        "qwen2.5-7b": _published("Qwen/Qwen2.5-7B", (28, 3584, 18944, 28, 4, 152064), bias=True),
        "qwen2.5-14b": _published("Qwen/Qwen2.5-14B", (48, 5120, 13824, 40, 8, 152064), bias=True),
        "qwen2.5-32b": _published("Qwen/Qwen2.5-32B", (64, 5120, 27648, 40, 8, 152064), bias=True),
        "qwen2.5-72b": _published("Qwen/Qwen2.5-72B", (80, 8192, 29568, 64, 8, 152064), bias=True),
    }
)

#: Named GPUs: name -> GPU, each with its source.
gpus: Mapping[str, GPU] = MappingProxyType(
    {
        name: GPU(gib * GIB, f"{full}: {gib} GiB as PyTorch and vLLM report it in public logs")
        for name, full, gib in (
            ("l4", "NVIDIA L4 24 GB", 22.03),
            ("rtx-4090", "NVIDIA GeForce RTX 4090 24 GB", 23.52),
            ("a100-40gb", "NVIDIA A100 40 GB", 39.50),
            ("l40s", "NVIDIA L40S 48 GB", 44.39),
            ("a100-80gb", "NVIDIA A100 80 GB", 79.15),
            ("h100", "NVIDIA H100 80 GB", 79.11),
            ("rtx-pro-6000", "NVIDIA RTX PRO 6000 Blackwell 96 GB", 94.97),
            ("h200", "NVIDIA H200 141 GB", 139.81),
            ("b200", "NVIDIA B200 180 GB", 178.35),
        )
    }
)
