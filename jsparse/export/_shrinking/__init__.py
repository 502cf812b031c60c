"""Smaller models: what is dead in the traced computation, and the model without it.

The model as a computation:
  graph         operations over numbered axes
  tracing       from a model to these, in eval mode
  marks         group normalizations without weights, found again in them
  source        where the code calls an operation
  pieces        running them, equal parts compiled once

What can be removed:
  operations    what each operation does to single positions, and what the axes of a product mean
  constants     which elements are the same for every input
  signs         which arrays are at least 0
  liveness      the positions to remove, from all down to those that nothing needs
  couplings     which axes an operation ties together
  contractions  where a product stops needing a unit
  sinks         the biases that take up the constants of units without weights
  plan          these, until nothing changes
  shrink        the result for a model, and for one in `training`
  dead          units whose constant no bias takes, and statistics that are constants

Whether it is right, and what it takes:
  verify        the smaller computation against the cut one
  blame         which units a fault comes from
  stayed        why dead units stay
  rescale       weights and numbers that make up for a factor, followed `onward` through operations
  places        which elements of weights an array is made of
  cut           variables, rules and states, cut
  attributes    the sizes that layers store
  guessing      the sizes that modules of your own store, found by trying
  other_shapes  whether these are right for inputs of other shapes
  record        what was removed, as plain data

Units that are removed together, dead or not:
  links         positions that belong together
  units         families of units, and the model without some (`smaller`)
  shares        how many of each to remove at once where an axis is divided in fixed proportions
  uses          what weights do with them
  groups        the table of them, and their picture (`drawing`)
  terms         which sums, maxima and products lose more than zeros, and which sums are means
  sizes         how large a model without some is
"""
