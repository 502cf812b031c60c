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
         python -m experiments.dst_imagenet --quick              (two cores: a tiny net, made-up data)
"""

import dataclasses
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import optax
import tyro
from flax import nnx

import jsparse
from experiments import common
from experiments.common.parallel import DataParallel, Trained
from experiments.common.stream import Batch, Readers, Shard, Stream, Synthetic, Training, in_order

MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
FREE = {"free": True}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The defaults want accelerators and ImageNet."""

    alpha: float = 5e-6
    """Weight of the regulariser, at the start where a density is given."""
    density: float = 0.1924
    """Fraction of the weights to end at; 1 to keep alpha as it is."""
    dense: bool = False
    """Train the dense network instead."""
    optimizer: Literal["sgd", "lamb"] = "sgd"
    """The second for large batches."""
    batch: int = 256
    """Images a step, of all devices together."""
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
    """Steps between checkpoints within an epoch, a multiple of --every; each epoch ends with one."""
    synthetic: bool = False
    """Made-up images from memory."""
    samples: int = 25_600
    """Made-up images in an epoch."""
    readers: Readers = dataclasses.field(default_factory=Readers, metadata=FREE)
    """How each process reads ahead."""
    distributed: bool = dataclasses.field(default=False, metadata=FREE)
    """One of several processes, each started with this flag; a cluster tells each its part."""
    coordinator: str = dataclasses.field(default="", metadata=FREE)
    """HOST:PORT of process 0, where no cluster tells it."""
    processes: int = dataclasses.field(default=1, metadata=FREE)
    """How many, with --coordinator."""
    process: int = dataclasses.field(default=0, metadata=FREE)
    """Which one this is, with --coordinator."""
    data: Annotated[str, tyro.conf.arg(metavar="FOLDER")] = dataclasses.field(
        default="", metadata=FREE
    )
    """Folder with train/ and val/, TFRecords or array records; else $JSPARSE_DATA."""
    out: Annotated[str, tyro.conf.arg(metavar="FOLDER")] = dataclasses.field(
        default="", metadata=FREE
    )
    """Run folder, by default runs/dst_imagenet; a killed run goes on from there."""
    quick: bool = False
    """A tiny network on tiny made-up images."""

    def __post_init__(self) -> None:
        for name in ("batch", "epochs", "side", "classes", "every", "save", "samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} got {getattr(self, name)}; give 1 or more")
        if not 0 < self.density <= 1:
            raise ValueError(f"--density is a fraction in (0, 1], got {self.density}")
        if self.alpha <= 0 or self.scale <= 0:
            raise ValueError(f"--alpha and --scale are above 0, got {self.alpha}, {self.scale}")
        if self.save % self.every:
            raise ValueError(
                f"--save {self.save} is no multiple of --every {self.every}; what is saved is "
                "logged first"
            )


QUICK = Settings(
    density=0.5,
    alpha=1e-3,
    batch=32,
    epochs=4,
    scale=4.0,
    side=32,
    classes=10,
    blocks=(1, 1),
    width=16,
    every=4,
    save=8,
    synthetic=True,
    samples=256,
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
            at_batch=32_768,
            warmup_epochs=20,
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
    model = common.BottleneckNet(
        nnx.Rngs(seed), settings.blocks, settings.width, settings.classes, dtype
    )
    if not settings.dense:
        model = jsparse.sparsify(model, (".*/kernel", jsparse.Threshold(alpha=settings.alpha)))
    return Trained(model, optimizer_of(settings, model, samples))


def standardised(images: jax.Array) -> jax.Array:
    """uint8 [n, h, w, 3] by the mean and deviation of ImageNet's channels."""
    mean, deviation = (jnp.asarray(x, jnp.float32)[None, None, None] for x in (MEAN, DEVIATION))
    return (images.astype(jnp.float32) / 255.0 - mean) / deviation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """Where batches come from; `test` makes them anew each time."""

    train: Stream
    test: Any
    samples: int
    name: str


def data_of(settings: Settings) -> Data:
    """ImageNet, or made-up images."""
    shard = Shard()
    if settings.synthetic:
        batches = max(1, settings.samples // settings.batch)
        stored = min(batches, 8)
        options = {"batch": settings.batch, "side": settings.side, "classes": settings.classes}
        options |= {"seed": settings.seed, "shard": shard}
        train = Synthetic(batches=stored, **options)
        test = Synthetic(batches=1, first=stored * settings.batch, **options)
        name = f"made-up images ({stored * settings.batch} of {settings.side}x{settings.side})"
        samples = batches * settings.batch
        return Data(train=train, test=lambda: [next(test)], samples=samples, name=name)
    found = common.imagenet(settings.data, settings.classes)
    options = {"batch": settings.batch, "side": settings.side, "shard": shard}
    options |= {"readers": settings.readers}
    train = Training(found.train, seed=settings.seed, **options)
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
