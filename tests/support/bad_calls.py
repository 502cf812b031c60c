"""A good call of every public callable: see `bad_inputs`.

Long because it is one table.
"""

import tempfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from flax import linen, nnx

import jsparse as js
from tests.support.bad_inputs import CLASSES, KEY, ROWS, Call, Made, Two, X, call, held, kernel

FRACTION = (0.5, "fraction")
COUNT = (2, "count")
DENSE, HELD = Made(kernel), Made(held)
TRAINED = Made(lambda: js.sparsify(DENSE(), ("kernel", js.Threshold(alpha=0.1))))
PRUNED = Made(lambda: js.sparsify(DENSE(), ("kernel", js.Top(density=0.1))))
TWO = Made(lambda: js.sparsify(Two(), (".*", js.Held())))
FIRST_HELD = Made(lambda: js.sparsify(Two(), ("a/.*", js.Held())))
PLAIN = Made(lambda: js.fold(TWO()))
TRIED = js.prune.Tried(("kernel",), np.ones((2, 1)), np.ones(2), np.ones(2), ("a", "a"), 1.0)
MASKS = {"kernel": jnp.ones((3, 4))}
PLAN = js.tree.plan(MASKS, ("kernel", js.Threshold()))
STATES = Made(lambda: js.tree.init(PLAN, MASKS, KEY))
RECORD = Made(lambda: js.shrink(PLAIN(), X)[1])
BRIDGED = Made(lambda: nnx.bridge.ToNNX(linen.Dense(3), rngs=nnx.Rngs(0)).lazy_init(X))
CUT = Made(lambda: js.prune.units(PLAIN(), X, density=0.5))
GROUPS = Made(lambda: js.groups(PLAIN(), X))
FOLDER = Path(tempfile.mkdtemp())  # good calls write below it, each to a place of its own
RUN = FOLDER / "run"
RUN.mkdir()
(RUN / "log.jsonl").write_text('{"step": 1, "accuracy": 0.5, "density": 0.5}\n')
MODEL, UNITS = (DENSE, "model"), {"unit": (js.Weight(), "unit"), "role": (js.Role(), "role")}
SCOPED = UNITS | {"scope": (js.Whole(), "scope")}
FEATURES = {"in_features": (3, "size"), "out_features": (4, "size")}
CELL = {"in_features": (3, "size"), "hidden_features": (4, "size")}
LAYER = {"rule": (js.Threshold(), "rule"), "rngs": (nnx.Rngs(0), "rngs")}
BATCHES = ([X], "fitting batches")
LOSS = (lambda model, x: model(x).sum(), "function")
STEPS = {"last": (100, "count"), "every": (10, "count"), "first": (0, "size")}
ACTIVE = (lambda model, x: {"a/kernel": model.a(x)}, "function")


def new(name: str) -> Any:
    """A path where nothing is yet, at each call."""
    return FOLDER / f"{name}{len(list(FOLDER.iterdir()))}"


def saved() -> Path:
    folder = new("saved")
    js.export.save(folder, DENSE(), X)
    return folder


def loaded(folder: Any) -> Any:
    return js.export.load(saved() if folder == "saved" else folder)


def restored(folder: Any, model: Any) -> Any:
    return js.export.restore(saved() if folder == "saved" else folder, model)


def spread(function: Any, name: str) -> Any:
    """A function whose *arguments are given under a name."""

    def called(**arguments: Any) -> Any:
        several = arguments.pop(name)
        several = [several] if name in ("rules", "revisions") else several
        first = arguments.pop("model", arguments.pop("params", arguments.pop("inner", None)))
        return function(first, *several, **arguments)

    return called


RULES = {
    "Threshold": call(
        js.Threshold,
        alpha=(1.0, "number"),
        reset=(0.1, "decay"),
        reset_recurrent=(0.1, "decay"),
        slope=(jnp.abs, "function"),
        **SCOPED | {"scope": (js.PerOutput(), "scope")},
    ),
    "Top": call(js.Top, density=FRACTION, **SCOPED),
    "SRSTE": call(js.SRSTE, density=FRACTION, decay=(0.1, "number"), **SCOPED),
    "Movement": call(js.Movement, density=(0.5, "density curve"), **SCOPED),
    "SoftMovement": call(
        js.SoftMovement,
        lam=(1.0, "number"),
        tau=(0.1, "open fraction"),
        least=FRACTION,
        **UNITS,
    ),
    "Powerpropagation": call(
        js.Powerpropagation, density=FRACTION, alpha=(2.0, "at least 1"), **SCOPED
    ),
    "Gibbs": call(
        js.Gibbs,
        density=FRACTION,
        beta=(js.schedule.geometric(1.0, 10.0, 0, 10), "beta"),
        coupling=(1.0, "number"),
        sweeps=COUNT,
        pairs_up_to=COUNT,
        exact=(False, "flag"),
        **SCOPED,
    ),
    "HardConcrete": call(
        js.HardConcrete,
        lam=(1.0, "number"),
        start=(0.5, "open fraction"),
        **SCOPED | {"scope": (js.Each(), "scope")},
    ),
    "SoftThreshold": call(
        js.SoftThreshold, s_init=(-5.0, "finite"), decay=(0.1, "number"), **SCOPED
    ),
    "Held": call(js.Held, role=(js.Role(), "role")),
    "Keep": call(js.Keep, role=(js.Role(), "role")),
}
PATTERNS = {
    "Block": call(js.Block, shape=((2, 2), "shape")),
    "Groups": call(js.Groups, size=COUNT, skip=(False, "flag")),
    "Role": call(
        js.Role,
        outputs=((-1,), "axes"),
        inputs=((-2,), "axes"),
        heads=((), "axes"),
        stack=(0, "size"),
        recurrent=(False, "flag"),
    ),
}
REVISIONS = {
    "RigL": call(js.RigL, fraction=FRACTION, **STEPS, **SCOPED),
    "SET": call(js.SET, fraction=FRACTION, by_sign=(False, "flag"), **STEPS, **SCOPED),
    "Below": call(js.Below, quality=(0.5, "positive"), role=(js.Role(), "role"), **STEPS),
    "Gradual": call(js.Gradual, density=FRACTION, start=(1.0, "fraction"), **STEPS, **SCOPED),
    "ACDC": call(js.ACDC, density=FRACTION, **STEPS | {"first": (10, "count")}, **SCOPED),
    "TopKAST": call(
        js.TopKAST, density=FRACTION, backward=(0.8, "fraction"), every=COUNT, **SCOPED
    ),
    "USN": call(js.USN, density=FRACTION, role=(js.Role(), "role")),
    "USN.links": call(js.USN(density=0.5).links, shape=((3, 4), "shape"), key=(KEY, "key")),
    "revise": call(
        spread(js.revise, "revisions"),
        inner=(optax.sgd(0.1), "transform"),
        revisions=([(".*", js.SET(last=9, every=1))], "revisions"),
        roles=({}, "named"),
        seed=(0, "seed"),
    ),
}
SCHEDULES = {
    "schedule.constant": call(js.schedule.constant, value=(0.5, "finite")),
    "schedule.cubic": call(
        js.schedule.cubic,
        start=(1.0, "finite"),
        end=(0.1, "finite"),
        first=(0, "finite"),
        last=(9, "finite"),
    ),
    "schedule.geometric": call(
        js.schedule.geometric,
        start=(1.0, "positive"),
        end=(0.1, "positive"),
        first=(0, "finite"),
        last=(9, "finite"),
        every=(1, "at least 1"),
    ),
    "schedule.silo": call(
        js.schedule.silo,
        start=(0.1, "positive"),
        end=(0.2, "positive"),
        kept=(0.5, "open fraction"),
        delay=(1, "number"),
        slope=(5.0, "positive"),
    ),
    "schedule.warm_stairs": call(
        js.schedule.warm_stairs, peak=(1.0, "number"), warm=(3, "number"), falls=((5,), "steps")
    ),
    "schedule.erdos_renyi_links": call(js.schedule.erdos_renyi_links, factor=(7.0, "factor")),
    "schedule.triangle": call(
        js.schedule.triangle, low=(0.0, "finite"), high=(1.0, "finite"), half=(4, "positive")
    ),
} | {
    f"schedule.{budget.__name__}": call(budget, shapes=({"a": (3, 4)}, "sizes"), density=FRACTION)
    for budget in (js.schedule.uniform, js.schedule.erdos_renyi, js.schedule.erdos_renyi_kernel)
}
OPTIM = {
    "TargetDensity": call(
        js.TargetDensity,
        density=FRACTION,
        steps=(100, "count"),
        ramp=FRACTION,
        gain=(1.0, "positive"),
        gain_memory=(1.0, "number"),
        every=COUNT,
    ),
    "average": call(
        js.average,
        target=(HELD, "model"),
        model=(HELD, "model"),
        rate=(0.1, "share"),
        keep=("mask", "links"),
    ),
    "optim.Multiplier": call(
        js.optim.Multiplier,
        limit=(0.1, "finite"),
        start=(0.0, "number"),
        integral=(0.1, "number"),
        proportional=(1.0, "number"),
        excess=(lambda cost, limit: cost - limit, "function"),
    ),
    "Optimizer": call(
        js.Optimizer,
        model=(TRAINED, "model"),
        tx=(optax.sgd(0.1), "transform"),
        controls=((), "controls"),
    ),
    "lamb": call(
        js.lamb,
        model=(DENSE, ""),
        learning_rate=(optax.constant_schedule(0.1), "rate"),
        b1=(0.9, "decay"),
        b2=(0.9, "decay"),
        eps=(0.1, "number"),
        weight_decay=(0.1, "number"),
        bounds=((0.0, 1.0), "bounds"),
    ),
    "lars": call(
        js.lars,
        model=(DENSE, ""),
        learning_rate=(0.1, "rate"),
        rest_learning_rate=(0.1, "rate"),
        momentum=(0.9, "decay"),
        nesterov=(False, "flag"),
        weight_decay=(0.1, "number"),
        coefficient=(0.1, "positive"),
    ),
    "route": call(
        js.route,
        model=(DENSE, ""),
        weights=(optax.sgd(0.1), "transform"),
        rest=(optax.sgd(0.1), "transform"),
    ),
    "optim.proximal": call(
        lambda tx, strengths, **rest: js.optim.proximal(tx, strengths, **rest).init(MASKS),
        tx=(optax.sgd(0.1), "transform"),
        strengths=([("kernel", 0.1)], "strengths"),
        **UNITS,
    ),
    "batch_schedule": call(
        js.batch_schedule,
        batch=(10, "count"),
        samples=(100, "count"),
        epochs=(3.0, "positive"),
        learning_rate=(0.1, "positive"),
        at_batch=(10, "count"),
        warmup_epochs=(1.0, "number"),
    ),
    "optim.task_gradients": call(
        lambda model: js.optim.task_gradients(model, nnx.grad(js.cost)(TRAINED())),
        model=(TRAINED, "model"),
    ),
    "optim.threshold_parts": call(js.optim.threshold_parts, model=(TRAINED, "model")),
}
SURGERY = {
    "sparsify": call(
        spread(js.sparsify, "rules"),
        model=MODEL,
        rules=([("kernel", js.Threshold())], "rules"),
        rngs=(nnx.Rngs(0), "rngs"),
    ),
    "fill": call(js.fill, model=(TRAINED, "model"), weights=(DENSE, "weights")),
    "hold": call(js.hold, model=(HELD, "model"), new=(MASKS, "masks")),
    "Sparse": call(
        js.Sparse,
        weight=(Made(lambda: DENSE().kernel), "param"),
        rule=(js.Held(), "rule"),
        key=(KEY, "key"),
    ),
} | {
    one.__name__: call(one, model=(TRAINED, "model"))
    for one in (js.fold, js.resolve, js.advance, js.cost, js.masks, js.roles, js.summary)
}
LAYERS = {
    "Linear": call(js.Linear, **FEATURES, **LAYER),
    "LinearGeneral": call(
        js.LinearGeneral, in_features=(3, "window"), out_features=(4, "window"), **LAYER
    ),
    "Conv": call(js.Conv, **FEATURES, kernel_size=((1, 1), "window"), **LAYER),
    "ConvTranspose": call(js.ConvTranspose, **FEATURES, kernel_size=((1, 1), "window"), **LAYER),
    "Einsum": call(
        js.Einsum, einsum_str=("ab,bc->ac", "equation"), kernel_shape=((3, 4), "shape"), **LAYER
    ),
    "Embed": call(js.Embed, num_embeddings=(3, "size"), features=(4, "size"), **LAYER),
    "MultiHeadAttention": call(
        js.MultiHeadAttention, num_heads=(2, "count"), in_features=(4, "count"), **LAYER
    ),
    "LSTMCell": call(js.LSTMCell, **CELL, **LAYER),
    "OptimizedLSTMCell": call(js.OptimizedLSTMCell, **CELL, **LAYER),
    "GRUCell": call(js.GRUCell, **CELL, **LAYER),
    "layers.Recall": call(
        js.layers.Recall,
        features=(3, "count"),
        heads=COUNT,
        head_features=COUNT,
        top=COUNT,
        gate=(0.1, "finite"),
        rngs=(nnx.Rngs(0), "rngs"),
    ),
    "layers.Recall.__call__": call(
        lambda **rest: js.layers.Recall(3, rngs=nnx.Rngs(0))(**rest),
        h=(X, "recalled"),
        memory=([X, X], "memory"),
    ),
}
LEARNED = (Made(lambda: STATES()[0]), "states")
HELD_STATES = (Made(lambda: STATES()[1]), "states")
TREE: dict[str, Call] = {
    "tree.plan": call(
        spread(js.tree.plan, "rules"),
        params=(MASKS, ""),
        rules=([("kernel", js.Threshold())], "rules"),
    ),
    "tree.init": call(js.tree.init, plan=(PLAN, "plan"), params=(MASKS, ""), key=(KEY, "key")),
    "tree.cost": call(js.tree.cost, plan=(PLAN, "plan"), learned=LEARNED, held=HELD_STATES),
    "tree.settled": call(js.tree.settled, held=(Made(lambda: STATES()[1]), "named")),
} | {
    f"tree.{one.__name__}": call(
        one,
        plan=(PLAN, "plan"),
        params=(MASKS, ""),
        learned=LEARNED,
        held=HELD_STATES,
    )
    for one in (js.tree.apply, js.tree.mask, js.tree.advance)
}
CHOSEN = {"density": FRACTION, "choose": (js.prune.globally, "choice")}
ROUNDS = {
    "model": (TWO, "model"),
    "train": (lambda model, round: model, "function"),
    "densities": ((0.5,), "densities"),
    "restart": (js.prune.Rewind(), "restart"),
    "choose": (js.prune.globally, "choice"),
    "keep": (js.prune.Nowhere(), "keep"),
}
PRUNE = (
    {
        "prune.keep_highest": call(
            js.prune.keep_highest, model=(HELD, "model"), scores=(MASKS, "named"), **CHOSEN
        ),
        "prune.magnitude": call(js.prune.magnitude, model=(HELD, "model"), **CHOSEN),
        "prune.random": call(js.prune.random, model=(HELD, "model"), key=(KEY, "key"), **CHOSEN),
        "prune.synflow": call(
            js.prune.synflow,
            model=(HELD, "model"),
            shape=((1, 3), "fitting shape"),
            rounds=COUNT,
            **CHOSEN,
        ),
        "prune.synflow_scores": call(
            js.prune.synflow_scores, model=(HELD, "model"), shape=((1, 3), "fitting shape")
        ),
        "prune.wanda": call(
            js.prune.wanda,
            model=(HELD, "model"),
            batches=BATCHES,
            density=FRACTION,
            scope=(js.PerOutput(), "scope"),
            forward=(lambda model, x: model(x), "function"),
            together=("kernel", "pattern"),
        ),
        "prune.sparsegpt": call(
            js.prune.sparsegpt,
            model=(HELD, "model"),
            batches=([jnp.eye(3)], "fitting batches"),
            density=FRACTION,
            scope=(js.Whole(), "scope"),
            forward=(lambda model, x: model(x), "function"),
            block=(3, "count"),
            together=("kernel", "pattern"),
            damping=(0.1, "number"),
        ),
        "prune.drop_lowest": call(
            js.prune.drop_lowest,
            model=(HELD, "model"),
            pattern=("kernel", "pattern"),
            amount=(0.5, "amount"),
            by=(js.prune.norm(1), "function"),
            unit=(js.Weight(), "unit"),
        ),
        "prune.drop_lowest_globally": call(
            js.prune.drop_lowest_globally,
            model=(HELD, "model"),
            pattern=("kernel", "pattern"),
            amount=(0.5, "amount"),
            by=(js.prune.norm(1), "function"),
        ),
        "prune.norm": call(js.prune.norm, n=(1, "power")),
        "prune.norm_of": call(js.prune.norm_of, scores=(MASKS, "named"), n=(1, "power")),
        "prune.noise": call(js.prune.noise, key=(KEY, "key")),
        "prune.each_round": call(js.prune.each_round, kept=(0.5, "open fraction"), rounds=COUNT),
        "prune.by_layer": call(js.prune.by_layer, budget=(js.schedule.uniform, "function")),
        "prune.globally": call(
            js.prune.globally, scores=(MASKS, ""), density=FRACTION, shapes=({}, "")
        ),
        "prune.held_parts": call(js.prune.held_parts, model=(HELD, "model")),
        "prune.magnitudes": call(js.prune.magnitudes, model=(HELD, "model")),
        "prune.lottery": call(js.prune.lottery, **ROUNDS, score=(js.prune.magnitudes, "function")),
        "prune.in_rounds": call(
            js.prune.in_rounds,
            prune=(lambda model, density, number: model, "function"),
            settings=({}, ""),
            **{name: one for name, one in ROUNDS.items() if name != "choose"},
        ),
        "prune.dropnet": call(
            js.prune.dropnet,
            **ROUNDS | {"model": (FIRST_HELD, "model")},
            score=(js.prune.RandomUnits(0), "function"),
            along=({}, "named"),
        ),
        "prune.drop_units": call(
            js.prune.drop_units,
            model=(FIRST_HELD, "model"),
            scores=({"a/kernel": jnp.arange(4.0)}, "named"),
            along=({}, "named"),
            **CHOSEN,
        ),
        "prune.Folder": call(js.prune.Folder, path=("runs", "folder"), facts=({}, "named")),
        "prune.Rewind": call(js.prune.Rewind, step=(0, "size")),
        "prune.RewindRate": call(js.prune.RewindRate, step=(0, "size")),
        "prune.FineTune": call(js.prune.FineTune, step=(0, "size")),
        "prune.Reinitialize": call(
            js.prune.Reinitialize, make=(kernel, "function"), seed=(0, "size")
        ),
        "prune.RandomUnits": call(js.prune.RandomUnits, seed=(0, "size")),
        "prune.activations": call(js.prune.activations, nonlinearity=(nnx.relu, "function")),
        "prune.search": call(
            js.prune.search,
            model=(HELD, "model"),
            score=(lambda model: model.kernel[...].sum(), "function"),
            cost=(js.prune.costs.parameters, "function"),
            budget=(100.0, "positive"),
            importance=(js.prune.magnitudes, "function"),
            unit=(js.Weight(), "unit"),
            method=(js.prune.Random(), "method"),
            evaluations=(16, "count"),
            key=(KEY, "key"),
            traced=(True, "flag"),
            keep=(js.prune.Nowhere(), "keep"),
        ),
        "prune.Random": call(js.prune.Random, population=COUNT, least=(0.01, "open fraction")),
        "prune.CrossEntropy": call(
            js.prune.CrossEntropy,
            population=COUNT,
            elite=(0.2, "open fraction"),
            rate=FRACTION,
            spread=(1.0, "positive"),
            floor=(0.1, "positive"),
            tighten=(0.7, "open fraction"),
        ),
        "prune.Lagrangian": call(
            js.prune.Lagrangian,
            population=COUNT,
            rate=(1e-3, "positive"),
            epochs=COUNT,
            batch=COUNT,
            clip=(0.2, "open fraction"),
            gamma=FRACTION,
            trace=FRACTION,
            entropy=(0.0, "number"),
            divergence=(0.1, "positive"),
            tighten=(0.7, "open fraction"),
        ),
        "prune.costs.parameters": call(js.prune.costs.parameters, model=(HELD, "model")),
        "prune.costs.bytes": call(js.prune.costs.bytes, dtype=(jnp.float32, "dtype")),
        "prune.costs.tiles": call(js.prune.costs.tiles, rows=COUNT, columns=COUNT),
        "prune.costs.flops": call(
            lambda inputs: js.prune.costs.flops(*inputs)(HELD()), inputs=((X,), "inputs")
        ),
        "prune.costs.latency": call(
            js.prune.costs.latency, form=(js.fold, "function"), calls=COUNT
        ),
    }
    | {
        f"prune.{one.__name__}": call(
            one, model=(HELD, "model"), loss=LOSS, batches=BATCHES, **(CHOSEN if whole else {})
        )
        for one, whole in (
            (js.prune.snip, True),
            (js.prune.grasp, True),
            (js.prune.snip_scores, False),
            (js.prune.grasp_scores, False),
        )
    }
    | {
        f"prune.{one.__name__}": call(one, activations=ACTIVE, batches=([X], "batches"))
        for one in (js.prune.Minimum, js.prune.Maximum, js.prune.APoZ)
    }
)
JOINED = (js.importance.Joined(), "joined")
PRUNE |= {
    "prune.units": call(
        spread(js.prune.units, "example_inputs"),
        model=(PLAIN, "model"),
        example_inputs=((X,), "inputs"),
        density=FRACTION,
        budget=(1.0, "fraction"),
        cost=(lambda sizes: sizes.parameters, "function"),
        importance=(js.importance.Norm(1), "function"),
        scope=(js.Whole(), "scope"),
        round_to=(1, "count"),
        least_width=(1, "count"),
        mend=(lambda module: {}, "function"),
    ),
    "prune.permute": call(
        spread(js.prune.permute, "example_inputs"),
        model=(PLAIN, "model"),
        example_inputs=((X,), "inputs"),
        density=FRACTION,
        scope=(js.Groups(2, skip=True), "n of m"),
        weights=(".*kernel", "patterns"),
    ),
    "prune.group_lasso": call(
        lambda tx, groups, strengths: js.prune.group_lasso(tx, groups, strengths),
        tx=(optax.adam(0.1), "transform"),
        groups=(GROUPS, "groups"),
        strengths=([(".*kernel.*", 0.1)], "strengths"),
    ),
    "prune.repair": call(
        js.prune.repair,
        model=(PLAIN, "model"),
        small=(Made(lambda: CUT()[0]), "model"),
        record=(Made(lambda: CUT()[1]), "record"),
        batches=BATCHES,
        forward=(lambda model, x: model(x), "function"),
        damping=(0.1, "number"),
    ),
    "prune.influence": call(
        js.prune.influence,
        model=(Made(lambda: nnx.Sequential(nnx.Linear(3, 3, rngs=nnx.Rngs(0)))), "model"),
        batches=BATCHES,
        pattern=("layers/0", "pattern"),
        forward=(lambda model, x: model(x), "function"),
    ),
    "prune.drop_blocks": call(
        lambda model, drop: js.prune.drop_blocks(model, {"a": 1.0, "b": 2.0}, drop=drop),
        model=(Two(), "model"),
        drop=(1, "count"),
    ),
    "couple": call(
        lambda model, groups, rules, rngs: js.couple(model, groups, rules, rngs=rngs),
        model=(PLAIN, "model"),
        groups=(GROUPS, "groups"),
        rules=([(".*", js.Top(density=0.5, unit=js.Group()))], "rules"),
        rngs=(nnx.Rngs(0), "rngs"),
    ),
    "prune.owl": call(
        js.prune.owl,
        model=(HELD, "model"),
        batches=BATCHES,
        density=FRACTION,
        layers=("kernel", "pattern"),
        spread=(0.1, "share"),
        outlier=(2.0, "positive"),
        forward=(lambda model, x: model(x), "function"),
    ),
    "recalibrate": call(
        js.recalibrate,
        model=(Made(lambda: nnx.BatchNorm(3, rngs=nnx.Rngs(0))), "model"),
        batches=([jnp.arange(6.0).reshape(2, 3)], "fitting batches"),
        forward=(lambda model, x: model(x), "function"),
    ),
    "importance.Norm": call(js.importance.Norm, p=(1, "positive"), joined=JOINED),
    "importance.NormScale": call(js.importance.NormScale, joined=JOINED),
    "importance.MedianDistance": call(js.importance.MedianDistance, joined=JOINED),
    "importance.Joined": call(
        js.importance.Joined, reduce=(jnp.sum, "function"), scale=(jnp.mean, "function or None")
    ),
    "importance.Random": call(js.importance.Random, seed=(0, "size")),
}
PRUNE |= {
    f"importance.{one.__name__}": call(one, loss=LOSS, batches=([X], "batches"), joined=JOINED)
    for one in (js.importance.Taylor, js.importance.Fisher)
}
PRUNE |= {
    f"importance.{one.__name__}": call(
        one, batches=([X], "batches"), run=(lambda model, x: model(x), "function"), joined=JOINED
    )
    for one in (js.importance.MeanActivation, js.importance.APoZ)
}
SIDES = {"in_features": (3, "window"), "out_features": (4, "window"), "kept": (2, "size")}
PACKED = SIDES | {
    "use_bias": (True, "flag"),
    "dtype": (jnp.float32, "dtype"),
    "param_dtype": (jnp.float32, "param dtype"),
}
DRAWN = {
    "in_features": (3, "window"),
    "out_features": (4, "window"),
    "key": (KEY, "key"),
    "scale": (1.0, "positive"),
    "width": (0, "size"),
}
LINKS = Made(lambda: js.export.random_csr(3, 4, links=2, key=KEY))
SET = js.revise(optax.sgd(0.1), ("kernel", js.SET(last=100)))
MOVING = Made(lambda: js.PackedOptimizer(LINKS(), SET))
EXPORT = {
    "shrink": call(
        spread(js.shrink, "example_inputs"),
        model=MODEL,
        example_inputs=((X,), "inputs"),
        mend=(lambda module: {}, "function"),
    ),
    "groups": call(
        spread(js.groups, "example_inputs"),
        model=MODEL,
        example_inputs=((X,), "inputs"),
        mend=(lambda module: {}, "function"),
    ),
    "shrink_training": call(
        lambda model, optimizer, example_inputs: js.shrink_training(
            model, optimizer, *example_inputs
        ),
        model=(HELD, "model"),
        optimizer=(Made(lambda: js.Optimizer(HELD(), optax.sgd(0.1))), "optimizer"),
        example_inputs=((X,), "inputs"),
    ),
    "PackedOptimizer": call(
        js.PackedOptimizer,
        model=(LINKS, "model"),
        tx=(SET, "transform of revise"),
        candidates=(2.0, "at least 1, inf too"),
    ),
    "pack_training": call(
        js.pack_training,
        model=(HELD, "model"),
        optimizer=(
            Made(lambda: js.Optimizer(HELD(), SET, wrt=(nnx.Param, js.Mask))),
            "optimizer",
        ),
        width=(0, "size"),
        candidates=(2.0, "at least 1, inf too"),
    ),
    "unpack_training": call(
        js.unpack_training, model=(LINKS, "model"), optimizer=(MOVING, "optimizer")
    ),
    "export.trim": call(js.export.trim, model=MODEL),
    "export.pick": call(
        spread(js.export.pick, "example_inputs"),
        model=MODEL,
        example_inputs=((X,), "inputs"),
        formats=({}, "formats"),
    ),
    "export.pack": call(
        js.export.pack,
        model=(PRUNED, "model"),
        format=(js.export.csr(), "format"),
        where=(".*", "pattern"),
    ),
    "export.unpack": call(js.export.unpack, model=MODEL),
    "export.left_dense": call(js.export.left_dense, model=MODEL),
    "export.csr": call(js.export.csr, width=(0, "size")),
    "export.blocks": call(
        js.export.blocks, block=((2, 2), "block"), product=(js.export.block_dot, "function")
    ),
    "export.Csr": call(js.export.Csr, width=(3, "count"), **PACKED),
    "export.CsrConv": call(
        js.export.CsrConv,
        width=(3, "count"),
        kernel_size=((3, 3), "shape"),
        strides=(1, "strides"),
        kernel_dilation=(1, "strides"),
        padding=("SAME", "padding"),
        **PACKED | {"in_features": (3, "count"), "out_features": (4, "count")},
    ),
    "export.random_csr": call(js.export.random_csr, links=(2, "size"), **DRAWN),
    "export.erdos_renyi_csr": call(js.export.erdos_renyi_csr, factor=(1.0, "positive"), **DRAWN),
    "export.csr_from_arrays": call(
        js.export.csr_from_arrays,
        rows=([0, 2], "places"),
        columns=([0, 3], "places"),
        values=(np.ones(2), "values of links"),
        width=(0, "size"),
        in_features=(3, "window"),
        out_features=(4, "window"),
    ),
    "export.BlockSparse": call(js.export.BlockSparse, block=((2, 2), "block"), **PACKED),
    "export.int8": call(js.export.int8, format=(js.export.csr(), "format")),
    "export.CsrInt8": call(js.export.CsrInt8, width=(3, "count"), **PACKED),
    "export.BlockSparseInt8": call(js.export.BlockSparseInt8, block=((2, 2), "block"), **PACKED),
    "export.save": call(
        lambda folder, model, inputs, **rest: js.export.save(
            new("model") if folder == "new" else folder, model, *inputs, **rest
        ),
        folder=("new", "folder"),
        model=MODEL,
        inputs=((X,), "inputs"),
        record=(js.export.Record(), "record"),
        shapes=((), "shapes"),
        overwrite=(False, "flag"),
    ),
    "export.stablehlo": call(
        spread(js.export.stablehlo, "inputs"),
        model=MODEL,
        inputs=((X,), "inputs"),
        shapes=((), "shapes"),
    ),
    "export.linen": call(js.export.linen, model=(BRIDGED, "model")),
    "export.load": call(loaded, folder=("saved", "path")),
    "export.restore": call(restored, folder=("saved", "path"), model=MODEL),
    "export.rebuild": call(js.export.rebuild, model=(PLAIN, "model"), record=(RECORD, "record")),
    "export.rebuild_training": call(
        js.export.rebuild_training, model=(PLAIN, "model"), record=(RECORD, "record")
    ),
    "export.Cut": call(js.export.Cut, shape=((3,), "shape"), keep=({0: (0, 2)}, "positions")),
    "export.Record": call(
        js.export.Record, cuts=({}, "cuts"), attributes=({}, "named"), stayed=({}, "named")
    ),
}
REPORT = {
    "report.costs": call(spread(js.report.costs, "inputs"), model=MODEL, inputs=((X,), "inputs")),
    "report.accuracy_density": call(
        js.report.accuracy_density, accuracy=(0.9, "accuracy"), parameters=(10, "at least 1")
    ),
    "report.hardness_density": call(
        js.report.hardness_density,
        accuracy=(0.9, "accuracy"),
        parameters=(10, "at least 1"),
        chance=(0.1, "decay"),
    ),
    "report.overlap": call(
        js.report.overlap, first=(MASKS, "two masks"), second=(MASKS, "two masks")
    ),
    "report.stability": call(
        js.report.stability, before=(TRAINED, "model"), after=(TRAINED, "model")
    ),
    "report.effective": call(
        js.report.effective,
        masks=(MASKS, "two masks"),
        roles=({}, "named"),
        chain=(["kernel"], "chain"),
    ),
    "report.structure": call(js.report.structure, masks=(MASKS, "one mask"), roles=({}, "named")),
    "report.save": call(
        lambda folder, model, inputs, forms: js.report.save(model, folder, *inputs, forms=forms),
        folder=(RUN, "folder"),
        model=MODEL,
        inputs=((X,), "inputs"),
        forms=({}, "forms"),
    ),
    "report.logme": call(
        js.report.logme, features=(ROWS, "table"), targets=(CLASSES, "transfer targets")
    ),
    "report.leep": call(
        js.report.leep,
        probabilities=(np.full((4, 2), 0.5), "probabilities"),
        targets=(CLASSES, "classes"),
    ),
    "report.nce": call(
        js.report.nce, sources=(CLASSES, "classes"), targets=(CLASSES, "whole classes")
    ),
    "report.transfer": call(
        js.report.transfer,
        models=(Made(lambda: {"a": DENSE()}), "models"),
        features=(lambda model, x: model(x), "function"),
        inputs=(ROWS, ""),
        targets=(CLASSES, "transfer targets"),
    ),
    "report.page": call(js.report.page, run_folder=(RUN, "path")),
    "report.compare": call(
        js.report.compare,
        run_folders=([RUN], "folders"),
        out=(FOLDER / "compare.html", "path"),
    ),
    "report.sensitivity": call(
        js.report.sensitivity,
        model=MODEL,
        score=(lambda model, x: model(x).mean(), "function"),
        batches=BATCHES,
        weights=(".*kernel", "patterns"),
        densities=((0.5,), "fractions"),
        unit=(js.Weight(), "unit"),
        scope=(js.Whole(), "scope"),
    ),
    "report.Sensitivity.page": call(
        js.report.Sensitivity(1.0, (0.5,), {"a": np.ones(1)}).page,
        out=(FOLDER / "sensitivity.html", "path"),
    ),
    "report.front": call(
        js.report.front,
        tried=(TRIED, "tried"),
        out=(FOLDER / "front.html", "path"),
    ),
    "Checkpoints": call(js.Checkpoints, folder=(FOLDER / "c", "folder"), keep=COUNT),
    "Checkpoints.save": call(
        lambda step: js.Checkpoints(new("steps")).save(step, {"a": jnp.ones(2)}),
        step=(1, "size"),
    ),
}
GIVEN = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
LABELS = (GIVEN[:, 0] > 0).astype(int) + 2 * (GIVEN[:, 1] > 0)  # four classes
HEADS_PATH = Made(lambda: js.heads.elastic_net_path(GIVEN, LABELS, points=2, key=KEY))
HEAD = Made(lambda: HEADS_PATH().points[1])
EDITED = {"model": MODEL, "path": ("kernel", "kernel path")}
HEADS = {
    "heads.elastic_net_path": call(
        js.heads.elastic_net_path,
        features=(GIVEN, "features"),
        targets=(LABELS, "targets"),
        mix=(0.99, "fraction"),
        points=COUNT,
        smallest=(1e-3, "open fraction"),
        grouped=(False, "flag"),
        validation=(0.1, "decay"),
        tolerance=(0.01, "positive"),
        batch=(1024, "count"),
        key=(KEY, "key"),
    ),
    "heads.Path.choose": call(lambda **rest: HEADS_PATH().choose(**rest), drop=(0.01, "share")),
    "heads.Path.at": call(lambda **rest: HEADS_PATH().at(**rest), features_per_class=(2, "number")),
    "heads.replace": call(js.heads.replace, point=(HEAD, "head"), **EDITED),
    "heads.ablate": call(
        js.heads.ablate,
        inputs=([0, 1], "inputs of a layer"),
        output=(1, "output"),
        means=((), "means"),
        **EDITED,
    ),
    "heads.page": call(
        lambda out, **rest: js.heads.page(out=new("head.html") if out == "new" else out, **rest),
        point=(HEAD, "head"),
        features=(GIVEN, "features"),
        images=(np.zeros((40, 2, 2), np.uint8), "images"),
        out=("new", "path"),
        classes=((0,), "outputs"),
        names=((), "names"),
        most=COUNT,
        beside=COUNT,
    ),
}
CALLS = RULES | PATTERNS | REVISIONS | SCHEDULES | OPTIM | SURGERY | LAYERS | TREE
CALLS |= PRUNE | EXPORT | REPORT | HEADS
