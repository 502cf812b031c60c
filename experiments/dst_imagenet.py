"""Dynamic Sparse Training of ResNet-50 on ImageNet, on any number of devices and processes.

Claim: learned thresholds train ResNet-50 sparse from the start, near the accuracy of the dense one.

Paper: Liu et al., Dynamic Sparse Training, ICLR 2020, Table 3: dense 74.95 (top-5 92.60), 74.02
    (92.49) at 19.24 %, 72.78 (91.53) at 9.87 %. The paper's alpha for ImageNet is not known here,
    so alpha is steered to a density; with --density 1 it stays as given.

Methods: a threshold for each filter of every convolution and each output of the head. SGD with
    momentum as for the dense network: 0.1 at batch 256 and in proportion to the batch, a tenth at
    epochs 30, 60 and 80, thresholds decayed like weights. LAMB: 0.04 at batch 32768 and with the
    square root of the batch, warmed up and falling to 0 on a line, thresholds by Adam (You et al.,
    Large batch optimization for deep learning, ICLR 2020).

Command: python -m experiments.dst_imagenet --data FOLDER        (accelerators; extra `imagenet`)
         ... --optimizer lamb --batch 4096 --bfloat16            (large batches)
         ... --distributed                                       (on each host of a cluster)
         ... --synthetic --epochs 1                              (images per second, no data)
         python -m experiments.dst_imagenet --quick              (two cores: a tiny network)
"""

import dataclasses
import statistics
import time
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import jsparse
from experiments import common, networks
from experiments.common.parallel import DataParallel, Trained
from experiments.datasets.imagenet import imagenet
from experiments.datasets.stream import Readers, Shard, Stream, in_order, synthetic, training

MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
LAMB_BATCH = 32_768


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(common.RunSettings):
    """The defaults need accelerators and ImageNet."""

    alpha: float = 5e-6
    """Weight of the regularizer, at the start where a density is given."""
    density: float = 0.1924
    """Fraction of the weights to end at; 1 to keep alpha as it is."""
    dense: bool = False
    """Train the dense network instead."""
    optimizer: Literal["sgd", "lamb"] = "sgd"
    """The second for large batches."""
    batch: int = 256
    """Images per step, over all devices."""
    epochs: int = 90
    """Passes over the training images."""
    scale: float = 1.0
    """Of the learning rate, times that of the recipe at this batch."""
    bfloat16: bool = False
    """Compute in bfloat16; weights, thresholds and statistics stay float32."""
    side: int = 224
    """Of the images."""
    classes: int = 1000
    """How many there are."""
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    """In each stage; the default is ResNet-50."""
    width: int = 64
    """Inside the first stage."""
    seed: int = 1
    """Of the start, and of order and crops."""
    every: int = 100
    """Steps between lines of the log."""
    save: int = 1000
    """Steps between checkpoints, a multiple of --every; there is one after each epoch too."""
    synthetic: bool = False
    """Made-up images from memory."""
    samples: int = 25_600
    """Made-up images in an epoch."""
    readers: Readers = dataclasses.field(default_factory=Readers, metadata=common.FREE)
    """How each process reads ahead."""
    distributed: bool = dataclasses.field(default=False, metadata=common.FREE)
    """One of several processes, each started with this flag; the cluster assigns ranks."""
    coordinator: str = dataclasses.field(default="", metadata=common.FREE)
    """HOST:PORT of process 0, if no cluster provides it."""
    processes: int = dataclasses.field(default=1, metadata=common.FREE)
    """How many, with --coordinator."""
    process: int = dataclasses.field(default=0, metadata=common.FREE)
    """Which one this is, with --coordinator."""
    quick: bool = False
    """A tiny network on tiny made-up images."""

    def __post_init__(self) -> None:
        self.check_positive("batch", "epochs", "side", "classes", "every", "save", "samples")
        if self.seed < 0:
            raise ValueError(f"--seed got {self.seed}; give 0 or more")
        if not 0 < self.density <= 1:
            raise ValueError(f"--density is a fraction in (0, 1], got {self.density}")
        if self.alpha <= 0 or self.scale <= 0:
            raise ValueError(f"--alpha and --scale are above 0, got {self.alpha}, {self.scale}")
        if self.save % self.every:
            raise ValueError(
                f"--save {self.save} is not a multiple of --every {self.every}; what is saved is "
                "logged first"
            )


QUICK = Settings(
    density=0.5,
    alpha=1e-3,
    batch=32,
    epochs=8,
    scale=4.0,
    side=32,
    classes=10,
    blocks=(1, 1),
    width=16,
    every=8,
    save=16,
    synthetic=True,
    samples=1024,
    quick=True,
)
PUBLISHED = [
    ["published", "dense", "", "74.95", "92.60"],
    ["published", "sparse", "19.24", "74.02", "92.49"],
    ["published", "sparse", "9.87", "72.78", "91.53"],
]


def optimizer_of(settings: Settings, model: nnx.Module, samples: int) -> jsparse.Optimizer:
    """SGD or LAMB by the recipe at this batch; with control of the density, where it is wanted."""
    steps = samples // settings.batch
    if settings.optimizer == "lamb":
        rate = jsparse.batch_schedule(
            settings.batch,
            samples=samples,
            epochs=settings.epochs,
            learning_rate=0.04 * settings.scale,
            at_batch=LAMB_BATCH,
            warmup_epochs=min(20, settings.epochs / 2 * LAMB_BATCH / settings.batch),
        )
        tx = jsparse.lamb(model, rate, weight_decay=0.01)
    else:
        drops = {round(epoch / 90 * settings.epochs * steps): 0.1 for epoch in (30, 60, 80)}
        peak = 0.1 * settings.scale * settings.batch / 256
        rate = optax.piecewise_constant_schedule(peak, drops)
        tx = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(rate, momentum=0.9))
    controls = ()
    if settings.density < 1 and not settings.dense:
        whole = settings.epochs * steps
        controls = (jsparse.TargetDensity(density=settings.density, steps=whole),)
    return jsparse.Optimizer(model, tx, controls=controls)


def make(settings: Settings, samples: int, seed: int) -> Trained:
    """The network, under thresholds unless it is to stay dense, and its optimizer."""
    dtype = jnp.bfloat16 if settings.bfloat16 else jnp.float32
    model = networks.BottleneckNet(
        nnx.Rngs(seed), settings.blocks, settings.width, settings.classes, dtype
    )
    if not settings.dense:
        model = jsparse.sparsify(model, (".*/kernel", jsparse.Threshold(alpha=settings.alpha)))
    return Trained(model, optimizer_of(settings, model, samples))


def standardized(images: jax.Array) -> jax.Array:
    """uint8 [n, h, w, 3] by the mean and deviation of ImageNet's channels."""
    mean, deviation = (jnp.asarray(x, jnp.float32)[None, None, None] for x in (MEAN, DEVIATION))
    return (images.astype(jnp.float32) / 255.0 - mean) / deviation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """Where batches come from; `test` makes new ones each time."""

    train: Stream
    test: Any
    samples: int
    name: str


def data_of(settings: Settings) -> Data:
    """ImageNet, or made-up images."""
    shard = Shard()
    if settings.synthetic:
        batches = max(1, settings.samples // settings.batch)
        stored = min(batches, max(2, 2048 // settings.batch))
        options = {"batch": settings.batch, "side": settings.side, "classes": settings.classes}
        options |= {"seed": settings.seed, "shard": shard}
        train = synthetic(batches=stored, **options)
        test = synthetic(batches=1, first=stored * settings.batch, **options)
        name = f"made-up images ({stored * settings.batch} of {settings.side}x{settings.side})"
        samples = batches * settings.batch
        return Data(train=train, test=lambda: [next(test)], samples=samples, name=name)
    found = imagenet(settings.data, settings.classes)
    options = {"batch": settings.batch, "side": settings.side, "shard": shard}
    options |= {"readers": settings.readers}
    train = training(found.train, seed=settings.seed, **options)
    test = lambda: in_order(found.test, **options)
    return Data(train=train, test=test, samples=len(found.train), name=found.name)


def connect(settings: Settings) -> None:
    """Join the other processes, if there are any; before anything else asks for devices."""
    if settings.coordinator:
        jax.distributed.initialize(
            settings.coordinator, num_processes=settings.processes, process_id=settings.process
        )
    elif settings.distributed:
        jax.distributed.initialize()
    if settings.batch % jax.device_count():
        raise ValueError(
            f"--batch {settings.batch} cannot be split over {jax.device_count()} devices; give a "
            "multiple of their number"
        )


def train(settings: Settings, run: common.Run, parallel: DataParallel, data: Data) -> Any:
    """All steps, from the last checkpoint on; returns the last state."""
    checkpoints = jsparse.Checkpoints(Path(settings.out) / "checkpoints")
    state = parallel.start(settings.seed)
    done, state, position = checkpoints.restore(state, data.train.get_state())
    data.train.set_state(position)
    run.forget_after(done)
    steps = data.samples // settings.batch
    losses: list[jax.Array] = []
    start = time.perf_counter()
    progress = common.Epochs(done // steps, settings.epochs, run.folder.name)
    if jax.process_index() == 0:
        what = f"a bottleneck network on {data.name}"
        common.header(run.folder, what, 1, f"steps {done + 1} to {settings.epochs * steps}")
    for epoch in progress:
        for step in range(max(done, (epoch - 1) * steps) + 1, epoch * steps + 1):
            state, loss = parallel.step(state, next(data.train))
            losses.append(loss)
            ended = step == epoch * steps
            if step % settings.every and not ended:
                continue
            row = line(settings, parallel, state, losses, time.perf_counter() - start)
            common.check_finite(row["loss"], step, row["layers"], run)
            if ended:
                accuracy = parallel.accuracy(state, data.test())
                row |= {"epoch": epoch, **accuracy._asdict()}
            run.log(step, **row)
            if jax.process_index() == 0:
                progress.within(step - (epoch - 1) * steps, steps)
            if ended or step % settings.save == 0:
                checkpoints.save(step, state, data.train.get_state())
            if ended and jax.process_index() == 0:
                progress.show(accuracy=accuracy.top1, density=row["density"])
            losses, start = [], time.perf_counter()
    return state


def line(
    settings: Settings, parallel: DataParallel, state: Any, losses: list, seconds: float
) -> dict[str, Any]:
    """What is logged of the last steps; waits for them."""
    loss = sum(map(float, losses)) / len(losses)
    layers = parallel.densities(state)
    speed = settings.batch * len(losses) / seconds
    density = parallel.total(layers)
    return {"loss": loss, "density": density, "layers": layers, "images_per_second": speed}


def finish(run: common.Run, parallel: DataParallel, state: Any) -> None:
    """Writes the page and the final numbers."""
    rows = run.rows()
    epochs = [row for row in rows if "epoch" in row]
    last = epochs[-1]
    if jax.process_index() == 0:
        jsparse.report.save(parallel.model(state), run.folder)
        jsparse.report.page(run.folder)
    speeds = [row["images_per_second"] for row in rows[1:] or rows]  # the first has compiled
    numbers = {name: last[name] for name in ("top1", "top5", "density", "layers")}
    run.finish(**numbers, images_per_second=statistics.median(speeds))


def show(settings: Settings, final: dict[str, Any], name: str) -> None:
    """Prints the table with the paper's figures, and the speed."""
    percents = [f"{100 * final[name]:.2f}" for name in ("density", "top1", "top5")]
    kind = "dense" if settings.dense else "sparse"
    rows = [] if settings.synthetic else PUBLISHED
    percents[0] = "" if settings.dense else percents[0]
    rows = [*rows, ["here", kind, *percents]]
    print(f"{name}, {settings.optimizer}, batch {settings.batch}, {settings.epochs} epochs:\n")
    print(common.table(["", "network", "density [%]", "top-1 [%]", "top-5 [%]"], rows))
    where = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    print(f"\n{final['images_per_second']:,.0f} images per second in training, {where}")
    print(f"\npage: {Path(settings.out) / 'page.html'}")


def main(settings: Settings) -> None:
    """Train, plot and print."""
    connect(settings)
    settings, out = settings.in_folder("runs/dst_imagenet")
    process = jax.process_index()
    data = data_of(settings)
    # each process has its own log; the checkpoints are of all of them together
    run = common.open_run(
        out / f"process_{process}" if process else out, settings, dataset=data.name
    )
    first = common.Run(folder=out)
    if not first.complete:
        parallel = DataParallel(lambda seed: make(settings, data.samples, seed), standardized)
        state = train(settings, run, parallel, data)
        data.train.close()
        finish(run, parallel, state)
    if process == 0:
        show(settings, first.final(), data.name)


if __name__ == "__main__":
    common.start(main, Settings, __doc__, QUICK)
