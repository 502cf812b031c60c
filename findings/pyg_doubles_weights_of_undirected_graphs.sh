#!/usr/bin/env bash
# PyTorch Geometric's to_undirected doubles the weights of a graph that is undirected already.
#
# Guess: to_undirected makes sure that each edge has its reverse. Where is_undirected says True there is nothing to do,
#   so it can be called to be safe, and a second call changes nothing.
# Versions: torch-geometric 2.8.1, torch 2.13.0, numpy 2.4.6, on a CPU.
# What happens: all edges are appended reversed and duplicates are merged by their sum (reduce="add"), so each weight
#   is doubled, at each call again; the transform ToUndirected does the same. The edges are right, and without weights
#   the call does nothing. In a directed graph the weight of a self-loop is doubled and the others are not. An example
#   in the docstring shows the sum; the text does not speak of it.
# Who is hurt: whoever calls it on weights or features of edges that come from a symmetric matrix, such as correlations
#   or distances. GCNConv adds a self-loop of weight 1, so the share of the node itself shrinks.
# Remedy: reduce="mean" (or "max") where the graph may be undirected already.
#
# Output seen (edges 0-1 of weight 1 and 1-2 of weight 3, in both directions; is_undirected is True):
#                                     weights                    share of node 0 in its GCNConv
#   as they are                       [1.0, 1.0, 3.0, 3.0]       0.500
#   to_undirected                     [2.0, 2.0, 6.0, 6.0]       0.333
#   to_undirected twice               [4.0, 4.0, 12.0, 12.0]     0.200
#   ToUndirected()                    [2.0, 2.0, 6.0, 6.0]       0.333
#   to_undirected, reduce='mean'      [1.0, 1.0, 3.0, 3.0]       0.500
#   directed 0-0 and 0-1 of weight 1: edges [(0, 0), (0, 1), (1, 0)], weights [2.0, 1.0, 1.0]

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --retries 0 --find-links https://download.pytorch.org/whl/cpu/torch/ \
    torch==2.13.0 torch-geometric==2.8.1 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from torch_geometric.data import Data
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from torch_geometric.transforms import ToUndirected
from torch_geometric.utils import is_undirected, to_undirected

edges = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
weight = torch.tensor([1.0, 1.0, 3.0, 3.0])
assert is_undirected(edges, weight)
transformed = ToUndirected()(Data(edge_index=edges, edge_weight=weight, num_nodes=3))
ways = {
    "as they are": (edges, weight),
    "to_undirected": to_undirected(edges, weight),
    "to_undirected twice": to_undirected(*to_undirected(edges, weight)),
    "ToUndirected()": (transformed.edge_index, transformed.edge_weight),
    "to_undirected, reduce='mean'": to_undirected(edges, weight, reduce="mean"),
}
print(f"{'':<34}{'weights':<27}share of node 0 in its GCNConv")
found = {}
for name, (index, w) in ways.items():
    assert torch.equal(index, edges), name
    normed, share = gcn_norm(index, w, num_nodes=3)
    share = float(share[(normed == 0).all(dim=0)].sum())
    found[name] = w.tolist(), share
    print(f"{name:<34}{w.tolist()!s:<27}{share:.3f}")
index, w = to_undirected(torch.tensor([[0, 0], [0, 1]]), torch.tensor([1.0, 1.0]))
pairs = [tuple(pair) for pair in index.T.tolist()]
print(f"directed 0-0 and 0-1 of weight 1: edges {pairs}, weights {w.tolist()}")

assert torch.equal(to_undirected(edges), edges)
for name, times in zip(ways, (1, 2, 4, 2, 1), strict=True):
    weights, share = found[name]
    assert weights == [times * one for one in weight.tolist()], f"{name} does not multiply by {times} now"
    assert abs(share - 1 / (1 + times)) < 1e-6, name
assert pairs == [(0, 0), (0, 1), (1, 0)] and w.tolist() == [2, 1, 1], "self-loops keep their weight now"
PYTHON
