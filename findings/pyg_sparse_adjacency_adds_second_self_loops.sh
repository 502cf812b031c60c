#!/usr/bin/env bash
# PyTorch Geometric's GCNConv adds a second self-loop when the graph is a sparse tensor, and none for its edge_index.
#
# Guess: a sparse adjacency matrix is another way to write edge_index, so the same GCNConv gives the same output. A node
#   that has a self-loop needs no second one.
# Versions: torch-geometric 2.8.1, torch 2.13.0, numpy 2.4.6, on a CPU.
# What happens: gcn_norm calls add_remaining_self_loops for edge_index, which adds loops where there are none, and
#   add_self_loops for a tensor of PyTorch (CSR or COO), which adds one to each node; the two are summed. The
#   node itself then counts twice. The same holds with improved=True, in SGConv, SSGConv and APPNP, and after the
#   transform ToSparseTensor. GATConv, which replaces the loops, is right, and so is a graph without loops.
# Who is hurt: whoever trains by edge_index and runs by the sparse tensor, which is recommended for speed and memory, on
#   a graph with self-loops: a citation of oneself, a matrix of correlations with its diagonal, nearest neighbors
#   that include the node. Shapes fit, and no warning comes.
# Remedy: add_remaining_self_loops before the sparse tensor is made, and add_self_loops=False in the layer.
#
# Output seen (nodes 0 and 1, joined, each with a self-loop; share of node 0 in its own output):
#                          edge_index   CSR     COO     ToSparseTensor
#   GCNConv                0.500        0.667   0.667   0.667
#   GCNConv, improved      0.500        0.750   0.750   0.750
#   SGConv                 0.500        0.667   0.667   0.667
#   SSGConv                0.500        0.667   0.667   0.667
#   APPNP                  0.500        0.667   0.667   0.667
#   no loops added         0.500        0.500   0.500   0.500
#   GATConv                0.500        0.500   0.500   0.500
#   GCNConv on 200 nodes, CSR against edge_index, change of the outputs:
#     no self-loops                      0.000
#     100 self-loops                     0.229
#     100 self-loops, with the remedy    0.000

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --retries 0 --find-links https://download.pytorch.org/whl/cpu/torch/ \
    torch==2.13.0 torch-geometric==2.8.1 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from torch_geometric import nn
from torch_geometric.data import Data
from torch_geometric.transforms import ToSparseTensor
from torch_geometric.utils import add_remaining_self_loops, remove_self_loops, to_undirected
from torch_geometric.utils import to_torch_coo_tensor as coo
from torch_geometric.utils import to_torch_csr_tensor as csr

edges = torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1]])
forms = {
    "edge_index": edges,
    "CSR": csr(edges, size=2),
    "COO": coo(edges, size=2),
    "ToSparseTensor": ToSparseTensor(layout=torch.sparse_csr)(Data(edge_index=edges, num_nodes=2)).adj_t,
}
layers = {
    "GCNConv": nn.GCNConv(2, 2, bias=False),
    "GCNConv, improved": nn.GCNConv(2, 2, bias=False, improved=True),
    "SGConv": nn.SGConv(2, 2, bias=False),
    "SSGConv": nn.SSGConv(2, 2, alpha=0, bias=False),
    "APPNP": nn.APPNP(K=1, alpha=0),
    "no loops added": nn.GCNConv(2, 2, bias=False, add_self_loops=False),
    "GATConv": nn.GATConv(2, 2, bias=False),
}
print(f"{'':<23}edge_index   CSR     COO     ToSparseTensor")
for name, layer in layers.items():
    if hasattr(layer, "lin"):
        torch.nn.init.eye_(layer.lin.weight)
    if name == "GATConv":
        torch.nn.init.zeros_(layer.att_src)
        torch.nn.init.zeros_(layer.att_dst)
    first, *others = (float(layer(torch.eye(2), form)[0, 0]) for form in forms.values())
    print(f"{name:<23}{first:<13.3f}{others[0]:<8.3f}{others[1]:<8.3f}{others[2]:.3f}")
    expected = {"GCNConv, improved": 3 / 4, "no loops added": 1 / 2, "GATConv": 1 / 2}.get(name, 2 / 3)
    assert abs(first - 1 / 2) < 1e-6, name
    assert all(abs(one - expected) < 1e-6 for one in others), f"{name} takes sparse tensors otherwise now"

torch.manual_seed(0)
plain, _ = remove_self_loops(to_undirected(torch.randint(200, (2, 500))))
looped = torch.cat([plain, torch.arange(100).repeat(2, 1)], dim=1)
remedied, _ = add_remaining_self_loops(looped, num_nodes=200)
layer, x = nn.GCNConv(10, 10, bias=False), torch.randn(200, 10)


def change(index, sparse_index, add_self_loops):
    """Change of the output from the edges to the CSR tensor, relative to its norm."""
    layer.add_self_loops = True
    output = layer(x, index)
    layer.add_self_loops = add_self_loops
    return float((layer(x, csr(sparse_index, size=200)) - output).norm() / output.norm())


print("GCNConv on 200 nodes, CSR against edge_index, change of the outputs:")
changes = change(plain, plain, True), change(looped, looped, True), change(looped, remedied, False)
titles = "no self-loops", "100 self-loops", "100 self-loops, with the remedy"
for title, number in zip(titles, changes, strict=True):
    print(f"  {title:<35}{number:.3f}")
assert changes[1] > 0.05 and max(changes[0], changes[2]) < 1e-5
PYTHON
