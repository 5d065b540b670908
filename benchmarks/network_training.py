"""Time of a training step of `train_denoiser`'s networks, beside the same networks and the same loop in PyTorch.

    python benchmarks/network_training.py --steps 200 --repeats 7 --out results.json

Every case is trained in both, in one process and in turn, in an order drawn anew every round: EDM's loss, Adam with a
cosine schedule and a moving average of the parameters. Of smoothjax, the difference of a long and a short training is
timed, both compiled before, so that neither compilation nor the initial weights count; of PyTorch, as many steps after a
few untimed ones. PyTorch is given its fused Adam, its multi-tensor moving average and, on request (`--compile`),
`torch.compile`. The rate of the bare matrix product that a layer is made of is measured along with them. See README.md.
"""

import argparse
import dataclasses
import importlib.util
import itertools
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smoothjax import learning
from smoothjax.learning import ConvolutionalArchitecture, MLPArchitecture

torch: Any = None
if importlib.util.find_spec("torch") is not None:
    import torch

BATCH, RATE, DECAY = 64, 2e-3, 0.998
CASES = ("mlp", "conv8", "conv28")
SHORT = 5  # steps of the training whose time is subtracted, and PyTorch's untimed ones

Call = Callable[[], float]


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    architecture: MLPArchitecture | ConvolutionalArchitecture
    data: np.ndarray
    image_shape: tuple[int, int, int]
    steps: int

    @property
    def layers(self) -> list[tuple[int, int, int]]:
        """Rows, inner and outer size of the matrix product of each layer, for a batch."""
        one, (h, w, c) = self.architecture, self.image_shape
        if isinstance(one, MLPArchitecture):
            sizes = [self.data.shape[1] + 16, *[one.width] * (one.num_layers - 1), h * w * c]
            return [(BATCH, a, b) for a, b in itertools.pairwise(sizes)]
        sizes = [c, *[one.channels] * (one.num_layers - 1), c]
        return [(BATCH * h * w, 9 * a, b) for a, b in itertools.pairwise(sizes)]

    @property
    def flops(self) -> int:
        """Of the products of one step: each layer's value, the gradient of its weights and, but for the first, its input."""
        return sum((6 if i else 4) * m * k * n for i, (m, k, n) in enumerate(self.layers))


def cases(names: list[str], steps: int) -> list[Case]:
    """The named cases; the larger the network, the fewer steps."""
    # As many as there are digits; times do not depend on what they show.
    rng = np.random.default_rng(0)
    small, large = (rng.uniform(-1, 1, (1797, d)).astype(np.float32) for d in (64, 784))
    convolutional = ConvolutionalArchitecture(channels=32, num_layers=4)
    every = {
        "mlp": Case("residual MLP, width 384, 4 layers, d = 64", MLPArchitecture(384, 4), small, (8, 8, 1), steps),
        "conv8": Case("convolutions, 32 channels, 4 layers, 8 x 8", convolutional, small, (8, 8, 1), steps),
        "conv28": Case("the same, 28 x 28", convolutional, large, (28, 28, 1), max(1, steps // 10)),
    }  # fmt: skip
    return [every[name] for name in names]


# ---------------------------------------------------------------------------------------- contestants


class Smoothjax:
    """Seconds a step of `train_denoiser`: a long training less a short one, of one compiled program."""

    def __init__(self, case: Case):
        self.case, self.data = case, jnp.asarray(case.data)
        self.train(SHORT)  # compiles

    def train(self, stop: int) -> learning.TrainingRun:
        total = SHORT + self.case.steps
        return jax.block_until_ready(
            learning.train_denoiser(
                self.data,
                self.case.architecture,
                jax.random.key(0),
                num_steps=total,
                stop=stop,
                image_shape=self.case.image_shape,
                batch_size=BATCH,
                learning_rate=RATE,
                ema_decay=DECAY,
                checkpoint_every=total,
            )
        )

    def __call__(self) -> float:
        times = []
        for stop in (SHORT, SHORT + self.case.steps):
            start = time.perf_counter()
            self.train(stop)
            times.append(time.perf_counter() - start)
        return (times[1] - times[0]) / self.case.steps


if torch is not None:

    def noise_features(noise: Any) -> Any:
        angles = noise[:, None] * torch.exp2(torch.arange(8) / 2)
        return torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)

    class TorchMLP(torch.nn.Module):
        def __init__(self, dim: int, width: int, num_layers: int):
            super().__init__()
            sizes = [dim + 16, *[width] * (num_layers - 1), dim]
            pairs = itertools.pairwise(sizes)
            self.layers = torch.nn.ModuleList([torch.nn.Linear(a, b) for a, b in pairs])

        def forward(self, x: Any, noise: Any) -> Any:
            first, *residual, last = self.layers
            silu = torch.nn.functional.silu
            h = silu(first(torch.cat([x, noise_features(noise)], dim=1)))
            for layer in residual:
                h = h + silu(layer(h))
            return last(h)

        def load(self, network: learning.ResidualMLP) -> None:
            for mine, theirs in zip(self.layers, network.layers, strict=True):
                mine.weight.copy_(torch.tensor(np.asarray(theirs.weight)))
                mine.bias.copy_(torch.tensor(np.asarray(theirs.bias)))

    class TorchConvolutions(torch.nn.Module):
        def __init__(self, image_shape: tuple[int, int, int], channels: int, num_layers: int):
            super().__init__()
            self.height, self.width, c = image_shape
            sizes = [c, *[channels] * (num_layers - 1), c]
            pairs = itertools.pairwise(sizes)
            self.layers = torch.nn.ModuleList(
                [torch.nn.Conv2d(a, b, 3, padding=1) for a, b in pairs]
            )
            self.modulations = torch.nn.ModuleList(
                [torch.nn.Linear(16, 2 * channels) for _ in range(num_layers - 1)]
            )

        def forward(self, x: Any, noise: Any) -> Any:
            # Points are flat images with the channel last.
            h = x.view(len(x), self.height, self.width, -1).permute(0, 3, 1, 2)
            features = noise_features(noise)
            *hidden, last = self.layers
            for i, (layer, modulation) in enumerate(zip(hidden, self.modulations, strict=True)):
                scale, shift = modulation(features)[..., None, None].chunk(2, dim=1)
                new = torch.nn.functional.silu((1 + scale) * layer(h) + shift)
                h = h + new if i else new
            return last(h).permute(0, 2, 3, 1).reshape(len(x), -1)

        def load(self, network: learning.ConvolutionalNetwork) -> None:
            for mine, kernel, bias in zip(
                self.layers, network.kernels, network.biases, strict=True
            ):
                mine.weight.copy_(torch.tensor(np.asarray(kernel).transpose(3, 2, 0, 1).copy()))
                mine.bias.copy_(torch.tensor(np.asarray(bias)))
            for mine, theirs in zip(self.modulations, network.modulations, strict=True):
                mine.weight.copy_(torch.tensor(np.asarray(theirs.weight)))
                mine.bias.copy_(torch.tensor(np.asarray(theirs.bias)))


class PyTorch:
    """Seconds a step of the same loop, written as PyTorch's users do. Its numbers differ by their random draws only."""

    def __init__(self, case: Case, *, compiled: bool = False, channels_last: bool = False):
        self.case, self.data = case, torch.from_numpy(case.data)
        self.scale = float(np.sqrt(np.mean(case.data.astype(np.float64) ** 2)))
        one = case.architecture
        if isinstance(one, MLPArchitecture):
            self.network = TorchMLP(case.data.shape[1], one.width, one.num_layers)
        else:
            self.network = TorchConvolutions(case.image_shape, one.channels, one.num_layers)
        if channels_last:
            self.network = self.network.to(memory_format=torch.channels_last)
        self.call = torch.compile(self.network, dynamic=False) if compiled else self.network
        self.parameters = list(self.network.parameters())
        self.average = [p.detach().clone() for p in self.parameters]
        self.optimizer = torch.optim.Adam(self.parameters, lr=RATE, fused=True)
        total = 10**6  # more than are taken
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, total)
        self.step(0)  # compiles, and allocates

    def step(self, i: int) -> None:
        pick = torch.randint(len(self.data), (BATCH,))
        x, sigma = self.data[pick], torch.exp(learning.P_MEAN + learning.P_STD * torch.randn(BATCH))
        z, sigma = torch.randn_like(x), sigma[:, None]
        c_in = 1 / torch.hypot(sigma, torch.tensor(self.scale))
        output = self.call(c_in * (x + sigma * z), torch.log(sigma[:, 0]) / 4)
        target = c_in * (sigma / self.scale * x - self.scale * z)
        loss = torch.mean((output - target) ** 2)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        decay = min(DECAY, (1 + i) / (10 + i))
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.parameters, 1 - decay)

    def __call__(self) -> float:
        for i in range(SHORT):
            self.step(i)
        start = time.perf_counter()
        for i in range(self.case.steps):
            self.step(i)
        return (time.perf_counter() - start) / self.case.steps


def largest_difference(case: Case) -> float:
    """Between the outputs of both networks, given the same weights after a few steps and the same points."""
    network = Smoothjax(case).train(SHORT + case.steps).model.network
    other = PyTorch(case).network
    x, noise = case.data[:BATCH], np.linspace(-1, 1, BATCH, dtype=np.float32)
    expected = np.asarray(jax.vmap(network)(jnp.asarray(x), jnp.asarray(noise)))
    with torch.no_grad():
        other.load(network)
        found = other(torch.from_numpy(x), torch.from_numpy(noise)).numpy()
    return float(np.max(np.abs(found - expected)))


def product_rates(case: Case, repeats: int) -> dict[str, list[float]]:
    """Operations a second of the largest layer's bare product, in each round."""
    m, k, n = max(case.layers, key=lambda layer: np.prod(layer))
    number = max(1, round(2e9 / (2 * m * k * n)))
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)

    def jax_products() -> None:
        jax.block_until_ready([product(one, two) for _ in range(number)])

    product, one, two = jax.jit(jnp.matmul), jnp.asarray(a), jnp.asarray(b)
    calls: dict[str, Callable[[], Any]] = {"smoothjax": jax_products}
    if torch is not None:
        left, right = torch.from_numpy(a), torch.from_numpy(b)
        out = torch.empty(m, n)
        calls["torch"] = lambda: [torch.mm(left, right, out=out) for _ in range(number)]
    rates: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(repeats + 1):
        for name, call in calls.items():
            settle()
            start = time.perf_counter()
            call()
            if i:
                rates[name].append(2 * m * k * n * number / (time.perf_counter() - start))
    return rates


# ----------------------------------------------------------------------------------------- measuring


def settle(limit: float = 0.5) -> None:
    """Waits until this process is idle: threads that wait for more work would take a core from the next contestant."""
    end, idle = time.perf_counter() + limit, 0
    while idle < 3 and time.perf_counter() < end:
        before = time.process_time()
        time.sleep(0.002)
        idle = idle + 1 if time.process_time() - before < 0.0004 else 0


def measure(
    case: Case, repeats: int, compile_too: bool, rng: np.random.Generator
) -> dict[str, Any]:
    calls: dict[str, Call] = {"smoothjax": Smoothjax(case)}
    notes: dict[str, Any] = {}
    if torch is not None:
        calls["torch"] = PyTorch(case)
        if isinstance(case.architecture, ConvolutionalArchitecture):
            calls["torch, channels last"] = PyTorch(case, channels_last=True)
        if compile_too:
            try:
                calls["torch, compiled"] = PyTorch(case, compiled=True)
            except Exception as error:
                notes["compile"] = f"{type(error).__name__}: {error}".splitlines()[0]
        notes["largest_difference"] = largest_difference(case)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(repeats + 1):  # the first round warms up
        for name in rng.permutation(list(calls)):
            settle()
            seconds = calls[name]()
            if i:
                times[name].append(seconds)
    rates = product_rates(case, repeats)
    return {"case": case.name, "flops": case.flops, "seconds": times, "rates": rates, **notes}


def milliseconds(times: list[float]) -> str:
    return f"{1e3 * np.median(times):.3g} ({1e3 * min(times):.3g})"


def row(cell: dict[str, Any]) -> list[str]:
    times, rates = cell["seconds"], cell["rates"]
    own = times["smoothjax"]
    rivals = {name: seconds for name, seconds in times.items() if name != "smoothjax"}
    best = min(rivals, key=lambda name: float(np.median(rivals[name])), default=None)
    fastest = max(map(max, rates.values()))
    cells = [cell["case"], f"{cell['flops'] / 1e6:.0f}", milliseconds(own)]
    if best is None:
        cells += ["-", "-", "-"]
    else:
        low, middle, high = np.percentile(np.array(own) / np.array(rivals[best]), [25, 50, 75])
        variant = best.partition(", ")[2]
        cells.append(milliseconds(rivals[best]) + (f", {variant}" if variant else ""))
        cells.append(f"{middle:.2f} ({low:.2f}-{high:.2f})")
        cells.append(f"{min(own) / min(rivals[best]):.2f}")
    cells.append(f"{cell['flops'] / min(own) / 1e9:.0f}")
    cells.append(f"{fastest / 1e9:.0f}")
    return cells


HEADER = [
    *("network", "Mflop a step", "smoothjax (ms)", "PyTorch (ms)", "ratio (quartiles)", "of least"),
    *("Gflop/s", "of bare product"),
]


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--steps", type=int, default=200, help="timed; a tenth for 28 x 28")
    parser.add_argument("--repeats", type=int, default=7, help="rounds")
    parser.add_argument("--compile", action="store_true", help="torch.compile as well")
    parser.add_argument("--out", type=Path, help="JSON with everything that was measured")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    rng = np.random.default_rng(0)
    affinity = getattr(os, "sched_getaffinity", None)
    environment = {
        "machine": platform.machine(),
        "cpus": len(affinity(0)) if affinity else os.cpu_count(),
        "jax_device": str(jax.devices()[0]),
        "jax": jax.__version__,
        "torch": getattr(torch, "__version__", None),
        "torch_threads": torch.get_num_threads() if torch is not None else None,
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
    }
    print(json.dumps(environment))
    if torch is None:
        print("PyTorch is not installed: smoothjax alone.")
    print("\nMilliseconds a step: median (least). Ratio: smoothjax / the faster PyTorch variant.\n")
    print(table(HEADER, []), flush=True)
    cells = []
    for case in cases(options.cases, options.steps):
        cells.append(measure(case, options.repeats, options.compile, rng))
        print("| " + " | ".join(row(cells[-1])) + " |", flush=True)
    if torch is not None:
        print()
    for cell in cells:
        if torch is not None:
            rest = {
                name: milliseconds(seconds)
                for name, seconds in cell["seconds"].items()
                if name.startswith("torch")
            }
            print(f"{cell['case']}: {rest}; outputs differ by {cell['largest_difference']:.1e}")
        if "compile" in cell:
            print(f"  torch.compile failed: {cell['compile']}")
    if options.out:
        options.out.write_text(json.dumps({"environment": environment, "cells": cells}, indent=1))


if __name__ == "__main__":
    main()
