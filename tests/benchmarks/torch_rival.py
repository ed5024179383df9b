"""PyTorch on the CPU in its best form: networks and tables that train on rows in memory.

Fused Adam, gradients set to None, batches cut beforehand as views of tensors in memory, the
number of threads set explicitly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from tests.benchmarks.made_rows import MadeRows
from tests.benchmarks.turns import Steps

# What torch.compile is asked for. "wrapper" calls the compiled code from C++, not from Python.
WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "wrapper": {"options": {"cpp_wrapper": True}},
    "autotune": {"options": {"max_autotune": True, "cpp_wrapper": True}},
}
EAGER = "PyTorch eager"


def way_name(way: str) -> str:
    """Return a contender's name in tables."""
    return "PyTorch compiled" if way == "default" else f"PyTorch compiled, {way}"


def use_threads(n: int) -> None:
    """Give PyTorch n threads, whatever other libraries in this process asked for."""
    torch.set_num_threads(n)
    assert torch.get_num_threads() == n


def network(widths: Sequence[int]) -> nn.Sequential:
    """Return affine layers with ReLU between them."""
    layers: list[nn.Module] = []
    for k in range(len(widths) - 1):
        layers += [nn.Linear(widths[k], widths[k + 1]), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def compiled(function: Callable[..., Any], way: str | None) -> Callable[..., Any]:
    """Return a function compiled in some way, or as it is."""
    if way is None:
        return function
    return torch.compile(function, dynamic=False, fullgraph=True, **WAYS[way])


def forget_compiled() -> None:
    """Drop compiled code, so that one shape's never slows the next one's lookup."""
    torch._dynamo.reset()


class TorchNetwork(Steps):
    """A network of numbers alone, with the logistic loss and fused Adam.

    Parameters
    ----------
    rows : MadeRows
    widths : sequence of int
        From the D numbers to 1.
    batch_size : int
    lr : float
    threads : int
    way : str or None
        Of compiling the forward pass with the loss (and so their backward pass); None for eager.
    seed : int
    """

    def __init__(
        self,
        rows: MadeRows,
        widths: Sequence[int],
        *,
        batch_size: int,
        threads: int,
        lr: float = 1e-3,
        way: str | None = None,
        seed: int = 0,
    ) -> None:
        torch.manual_seed(seed)
        self._threads = threads
        self.net = network(widths)
        self._lr = lr
        self._adam = self._make_adam()
        n = len(rows) // batch_size * batch_size
        self._x = torch.from_numpy(rows.numeric[:n]).split(batch_size)
        self._y = torch.from_numpy(rows.target[:n]).split(batch_size)
        self._loss = compiled(self._loss_of, way)
        self._at = 0

    def _make_adam(self) -> Any:
        return torch.optim.Adam(self.net.parameters(), lr=self._lr, fused=True)

    def warm_up(self) -> None:
        """Compile and load whatever a step needs, and leave everything as it was."""
        before = {name: value.clone() for name, value in self.net.state_dict().items()}
        self(3)
        self.net.load_state_dict(before)
        self.net.zero_grad(set_to_none=True)
        self._adam, self._at = self._make_adam(), 0

    def _loss_of(self, x: Any, y: Any) -> Any:
        return functional.binary_cross_entropy_with_logits(self.net(x).squeeze(1), y)

    def __call__(self, n_steps: int) -> None:
        use_threads(self._threads)
        n_batches = len(self._x)
        for k in range(self._at, self._at + n_steps):
            self._adam.zero_grad(set_to_none=True)
            self._loss(self._x[k % n_batches], self._y[k % n_batches]).backward()
            self._adam.step()
        self._at = (self._at + n_steps) % n_batches

    def predict(self, rows: MadeRows) -> Any:
        """Return probabilities, (n,) float32."""
        with torch.no_grad():
            return torch.sigmoid(self.net(torch.from_numpy(rows.numeric))).squeeze(1).numpy()


class TorchTables(Steps):
    """Embedding bags with sparse gradients, concatenated with the numbers into a network.

    Parameters
    ----------
    rows : MadeRows
    width : int
        K.
    hidden : sequence of int
    batch_size, threads, lr, seed
    one_table : bool
        All fields in one EmbeddingBag, their codes offset beforehand, instead of one for each.
    way : str or None
        Of compiling the dense part; sparse gradients cannot be compiled.
    """

    def __init__(
        self,
        rows: MadeRows,
        *,
        width: int,
        hidden: Sequence[int],
        batch_size: int,
        threads: int,
        lr: float = 1e-3,
        one_table: bool = False,
        way: str | None = None,
        seed: int = 0,
    ) -> None:
        torch.manual_seed(seed)
        sizes = rows.cardinalities
        self._threads, self._batch_size = threads, batch_size
        self._shape = (-1, len(sizes) * width)
        self._one_table = one_table
        tables = [sum(sizes)] if one_table else list(sizes)
        self.tables = nn.ModuleList(
            [nn.EmbeddingBag(size, width, mode="sum", sparse=True) for size in tables]
        )
        for table in self.tables:
            nn.init.normal_(table.weight, std=0.01)
        d = rows.numeric.shape[1]
        self.net = network([d + len(sizes) * width, *hidden, 1])
        self._sparse = torch.optim.SparseAdam(list(self.tables.parameters()), lr=lr)
        self._dense = torch.optim.Adam(self.net.parameters(), lr=lr, fused=True)
        n = len(rows) // batch_size * batch_size
        self._x = torch.from_numpy(rows.numeric[:n]).split(batch_size)
        self._y = torch.from_numpy(rows.target[:n]).split(batch_size)
        self._codes = self._cut(rows.codes[:n], sizes)
        # One code a bag: bag i of a field holds row i's.
        self._starts = torch.arange(batch_size * (len(sizes) if one_table else 1))
        self._loss = compiled(self._loss_of, way)
        self._at = 0

    def _cut(self, codes: Any, sizes: Sequence[int]) -> list[Any]:
        """Return every batch's codes as its bags take them: consecutive int64."""
        wide = torch.from_numpy(codes.astype(np.int64))
        if self._one_table:
            first = torch.from_numpy(np.concatenate([[0], np.cumsum(sizes)[:-1]]))
            return list((wide + first).reshape(-1).split(self._batch_size * len(sizes)))
        return [part.T.contiguous() for part in wide.split(self._batch_size)]

    def _loss_of(self, x: Any, y: Any, *embedded: Any) -> Any:
        scores = self.net(torch.cat([x, *embedded], dim=1)).squeeze(1)
        return functional.binary_cross_entropy_with_logits(scores, y)

    def _embed(self, codes: Any) -> list[Any]:
        if self._one_table:
            return [self.tables[0](codes, self._starts).view(self._shape)]
        return [table(codes[f], self._starts) for f, table in enumerate(self.tables)]

    def __call__(self, n_steps: int) -> None:
        use_threads(self._threads)
        n_batches = len(self._x)
        for at in range(self._at, self._at + n_steps):
            k = at % n_batches
            self._sparse.zero_grad(set_to_none=True)
            self._dense.zero_grad(set_to_none=True)
            self._loss(self._x[k], self._y[k], *self._embed(self._codes[k])).backward()
            self._sparse.step()
            self._dense.step()
        self._at = (self._at + n_steps) % n_batches


def sgemm_gflops(threads: int, *, size: int = 2048, repeats: int = 5) -> float:
    """Return the Gflop/s of the best of some products of two square matrices."""
    from tests.benchmarks.child import clock

    use_threads(threads)
    a, b = torch.randn(size, size), torch.randn(size, size)
    out = torch.empty(size, size)
    torch.mm(a, b, out=out)
    seconds = min(clock(lambda: torch.mm(a, b, out=out))[0] for _ in range(repeats))
    return 2 * size**3 / seconds / 1e9
