"""The words of docs/holds.md, around the tables that tests/test_extremes.py and tests/test_determinism.py keep."""

from textwrap import fill

HEAD = """# What holds

What may be asked of each part at the edges of what it takes. *yes* holds for every part of the column, *but* for all
save those of the note, *no* for none; *–* was not asked. Every cell is a test (`tests/test_extremes.py`), which fails
where a part that should hold does not, and where one that should not does. This page is printed from its tables, by
`python -m tests.test_extremes`.
"""

JUDGED = """How a row is judged:

- t = 0 and t_max: finite numbers, or a ValueError that names t (a score where there is no noise, an SDE where α = 0);
- float16, bfloat16, float32: the answer has the dtype, and is that of float64 within 64 roundings of the dtype (times
  and coefficients are float64 on the host in any case);
- D: equal entries have the same answer at D = 1, 2 and 1,000,000; networks have finite answers of the shape;
- a batch of 0 has an answer of the right shape and dtype; a batch of 1 that of its row in a larger batch, to 1e-12;
- not contiguous (a transpose, every second entry), expanded (one row with stride 0): as a copy in order, to 1e-12;
- requires_grad: the gradient in x along a direction is the difference quotient, to 1e-6;
- inference_mode: as outside, to 1e-12;
- torch.compile: `fullgraph=True` of the call, for samplers of one `step` with fixed times (a closure, or
  `dynamic=False` where t and s are arguments: each pair is compiled anew), traced and run by the backend "eager": as
  without, to 1e-12;
- vmap: `torch.func.vmap` over samples asked one by one;
- pickle, deepcopy: the copy gives the same bits; so do results (`LogProb`, `Elbo`, `Vlb`, `BitsPerDim`, `Estimate`,
  `Report`, `Record`); what is made of closures, laws of times (`log_normal()`) and rows of `PREDICTIONS`, has copies
  but no pickle;
- 8 threads at once give, to the last bit, what each gives alone.

What was asked, in each column:
"""


CUDA = [
    ("operation", "where", "what to do"),
    ("---", "---", "---"),
    ("convolutions, both ways", "`UNet`", "the switch, or `torch.backends.cudnn.deterministic`"),
    ("fused attention, backwards", "training `DiT`, or `UNet` with attention", "`sdpa_kernel(SDPBackend.MATH)`"),
    ("`index_add_` with repeated rows", "`metrics.fit_features` without labels", "the switch"),
    ("gradients of indexing", "embeddings of labels", "the switch"),
    (
        "`cumsum` of floats",
        "`sample` of targets on the device, `metrics`, `LossAware`",
        "refused: keep them on the CPU",
    ),
    ("the negative log-likelihood", "`fit_classifier`, `fit_features`", "refused: train classifiers on the CPU"),
    ("matrix products on several streams", "all", "`CUBLAS_WORKSPACE_CONFIG=:4096:8`"),
]
"""Operations that torch says may differ from call to call."""

SAME = """\
With a `generator` (or `seeds`) of the same seed, on one machine with one set of packages, a CPU gives the same
bits again: whatever the global generator does, in another process, in any order of calls, and with another hash seed
(`tests/test_determinism.py`). Tried with every sampler, and with: {names}."""

THREADS = """With another number of threads sums are cut in other places. Of all these, at the sizes tried, only the
{may_differ} may then have other bits (the gradient of a convolution); expect it of large matrices too. Other machines
and other versions of torch may round otherwise. A sample is the same in any batch to rounding, not to the bit. The
header of a safetensors file lists its notes in any order: compare tensors, not files."""

ON_CUDA = """On CUDA these may differ from call to call. The list is from what torch says of its operations; none of it
was tried. The switch, `torch.use_deterministic_algorithms(True)`, makes some deterministic and refuses the others:"""

NEVER = """`index_add`, `index_copy` and `index_put` of `log_prob` and `Adaptive`, and the `gather` of
`guidance.classifier`, never meet an entry twice, so that their order cannot matter."""

SOURCE = """\
Noise comes from the device that the generator is on: give one on the CPU for the same noise everywhere. With
a mask of dropped labels and batches drawn on the CPU, `fit` sees the same data in the same order on any device."""


def listed(names) -> str:
    return ", ".join(f"`{name}`" for name in names)


def wrapped(text: str, indent: str = "") -> str:
    return fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def determinism(answers: dict, may_differ: tuple) -> str:
    table = "\n".join(f"| {' | '.join(row)} |" for row in CUDA)
    names = ", ".join(name for name in answers if not name.startswith("sampler "))
    return "\n\n".join(
        [
            "## The same bits",
            wrapped(SAME.format(names=names)),
            wrapped(THREADS.format(may_differ=", ".join(may_differ))),
            wrapped(ON_CUDA),
            table,
            wrapped(NEVER),
            wrapped(SOURCE) + "\n",
        ]
    )
