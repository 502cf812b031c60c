#!/usr/bin/env bash
# gensim's Jaccard distance of a bag of words to itself is 0.5.
#
# Guess: matutils.jaccard is a distance: 0 for equal documents, 1 for those with no word in common, and with counts
#   1 - sum(min) / sum(max), the weighted form (Ruzicka).
# Versions: gensim 4.4.0, scipy 1.17.1, numpy 2.4.6.
# What happens: for bags of (id, weight) the "union" is the sum of both bags, in which what they share counts twice
#   (gensim/matutils.py, jaccard). So the distance is 1 - sum(min) / (sum + sum) and runs from 0.5 to 1: it is
#   (1 + Bray-Curtis) / 2. The docstring says "0 is min distance". Lists of words and arrays take another path, which is
#   right: the same two documents have two distances.
# Who is hurt: thresholds for near-duplicates, such as "below 0.3", never hold for bags; averages with other
#   distances; a store of both forms, where a text is nearer as a list than as a bag.
# Remedy: with s = 2 * (1 - jaccard(a, b)), the distance is 1 - s / (2 - s).
#
# Output seen (two words: to itself, with one word in common, with none):
#   lists of words     0.000  0.667  1.000
#   bags of words      0.500  0.750  1.000
#   bags, mended       0.000  0.667  1.000

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet gensim==4.4.0 scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from gensim.matutils import jaccard

texts = (["a", "b"], ["a", "c"], ["c", "d"])
ids = {word: place for place, word in enumerate("abcd")}
bags = [[(ids[word], 1) for word in text] for text in texts]
lists = [jaccard(texts[0], text) for text in texts]
counted = [jaccard(bags[0], bag) for bag in bags]
shared = 2 * (1 - np.array(counted))
mended = 1 - shared / (2 - shared)
for name, found in (("lists of words", lists), ("bags of words", counted), ("bags, mended", mended)):
    print(f"{name:<17}", "".join(f"  {one:.3f}" for one in found))
assert np.allclose(lists, [0, 2 / 3, 1]) and np.allclose(mended, lists)
assert np.allclose(counted, [0.5, 0.75, 1]), "the union counts what is shared once now"
PYTHON
