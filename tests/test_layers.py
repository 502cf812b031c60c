from flax import nnx

import jsparse as js
from tests.support.cases import parts

RULE = js.Threshold(alpha=1e-2)


def test_layers_made_under_vmap() -> None:
    @nnx.split_rngs(splits=3)
    @nnx.vmap
    def make(rngs: nnx.Rngs) -> nnx.Linear:
        return js.Linear(4, 5, rule=RULE, rngs=rngs)

    layers = make(nnx.Rngs(0))
    assert layers.kernel.threshold.shape == (3, 5)
    assert js.fold(layers).kernel.shape == (3, 4, 5)
    assert js.summary(layers).size == 60


def test_layers_with_a_rule_are_stock_layers() -> None:
    made = {
        js.Linear: (4, 3),
        js.LinearGeneral: ((4,), (3,)),
        js.Conv: (2, 4, (3,)),
        js.ConvTranspose: (2, 4, (3,)),
        js.Einsum: ("bi,io->bo", (4, 3)),
        js.Embed: (6, 4),
        js.MultiHeadAttention: (2, 4),
        js.LSTMCell: (4, 3),
        js.OptimizedLSTMCell: (4, 3),
        js.GRUCell: (4, 3),
    }
    for make, arguments in made.items():
        layer = make(*arguments, rule=RULE, rngs=nnx.Rngs(0))
        assert type(layer) is getattr(nnx, make.__name__)
        assert parts(layer)
        assert not parts(js.fold(layer))
