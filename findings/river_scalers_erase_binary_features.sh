#!/usr/bin/env bash
# River's StandardScaler and MinMaxScaler turn every word of a bag of words into 0, and a model learns nothing.
#
# Guess: a feature that a sparse dict leaves out is 0, as it is to River's linear models and in scikit-learn's
#   DictVectorizer: {"a": 1} and {"a": 1, "b": 0} are scaled alike, up to the centering of what is absent.
# Versions: river 0.26.1, numpy 2.4.6.
# What happens: the scalers see only what is in the dict, so the mean and the range of a feature are those of its
#   nonzeros. A feature that is 1 where it occurs has the mean 1 and no range: it is scaled to 0 for ever, in the text
#   of BagOfWords (apart from words that occur twice), and in any dict without its zeros. A number is centered around
#   the mean of its nonzeros. MaxAbsScaler is right.
# Who is hurt: whoever puts a scaler in front of a linear model, as the pipelines of River's tutorials do, and sends
#   sparse features through it: no feature reaches the model, and the accuracy is that of guessing.
# Remedy: MaxAbsScaler, or StandardScaler before the features are made sparse.
#
# Output seen (accuracy of LogisticRegression; 20 words, the answer is the sign of a sum of weights):
#   scaler           dict with zeros  nonzeros only  text, BagOfWords
#   none             0.87             0.87           0.87
#   StandardScaler   0.96             0.64           0.64
#   MinMaxScaler     0.87             0.64           0.64
#   MaxAbsScaler     0.87             0.87           0.87
#   share of the more frequent answer: 0.64

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet river==0.26.1 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import random

from river import compose, feature_extraction, linear_model, preprocessing

random.seed(0)
words = [f"w{i}" for i in range(20)]
weights = {word: random.gauss(0, 1) for word in words}
rows = []
for _ in range(3000):
    row = {word: int(random.random() < 0.2) for word in words}
    rows.append((row, sum(weights[word] * row[word] for word in words) > 0))
forms = {
    "zeros": lambda row: row,
    "nonzeros": lambda row: {word: value for word, value in row.items() if value},
    "text": lambda row: " ".join(word for word, value in row.items() if value),
}


def accuracy(scaler, form):
    steps = [feature_extraction.BagOfWords()] if form == "text" else []
    steps += [scaler()] if scaler else []
    model = compose.Pipeline(*steps, linear_model.LogisticRegression())
    right = 0
    for i, (row, answer) in enumerate(rows):
        x = forms[form](row)
        right += i >= 1000 and model.predict_one(x) == answer
        model.learn_one(x, answer)
    return right / 2000


print("scaler           dict with zeros  nonzeros only  text, BagOfWords")
found = {}
for scaler in (None, preprocessing.StandardScaler, preprocessing.MinMaxScaler, preprocessing.MaxAbsScaler):
    name = scaler.__name__ if scaler else "none"
    for form in forms:
        found[name, form] = accuracy(scaler, form)
    line = f"{name:<17}{found[name, 'zeros']:<17.2f}{found[name, 'nonzeros']:<15.2f}{found[name, 'text']:.2f}"
    print(line)
share = sum(answer for _, answer in rows[1000:]) / 2000
print(f"share of the more frequent answer: {max(share, 1 - share):.2f}")
for name in ("none", "MaxAbsScaler"):
    assert all(found[name, form] > 0.8 for form in forms)
for name in ("StandardScaler", "MinMaxScaler"):
    assert found[name, "zeros"] > 0.8
    assert all(found[name, form] < 0.7 for form in ("nonzeros", "text")), f"{name} takes what is left out for 0 now"
PYTHON
