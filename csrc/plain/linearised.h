// Which form products with linearised samples take, and where what they need lies. docs/reinforcement.md has the
// algebra.
#pragma once

#include "plain/network.h"

namespace fastmaml {

template <class T>
struct ActivePiece;

// A straight ReLU network is linear in the weights of each of its layers. So the Hessian of a loss is
//   the outputs' Jacobian on both sides of the loss's Hessian: with the Jacobian kept, one matrix product a layer each
//   way; and, unless the loss is stationary, cross terms of layers: of three layers sums over the samples into which no
//   direction enters, so that a product with them does not depend on the number of samples.
// Of a task are kept, for each piece, Jacobians [hidden layers but the last, outputs, rows, width], and then the sums.
template <class T>
struct KeptForm {
  bool jacobian = false;
  bool stationary = false;
  Index linears = 0;  // linear layers; one `append` may follow
  Index outputs = 0;  // of the last linear layer
  Index piece = 0;    // elements of a piece's Jacobians
  Index sums = 0;     // place of the cross sums
  Index size = 0;     // of all that is kept of a task
  T* kept = nullptr;  // [tasks, size], from the first product on

  Index inputs = 0, rows = 0, columns = 0;  // cross sums: [inputs, rows] x [outputs, columns]
  Index left = 0, right = 0;                // places of their factors in a thread's tangents

  ActivePiece<T>* active = nullptr;  // [tasks, pieces]
  Index pieces = 0;                  // of a task
  Index list = 0;                    // length of a layer's list of units
  // places of packed parameters of a smaller network, in a thread's tangents
  Index theta = 0, direction = 0, product = 0;
};

// A piece of samples as a smaller network: of the hidden layers only the units that some sample of it opens. Neighbours
// open the same ones, and the others have no part in anything.
template <class T>
struct ActivePiece {
  bool smaller = false;
  Network network;                  // its layers have fewer features
  Shape<T> shape;                   // its places have narrower weights; all else lies where the whole network has it
  Layer* layers = nullptr;          // those of `network`
  LayerPlace<T>* places = nullptr;  // those of `shape`
  // [linears + 1, list]: units before the first layer, ..., after the last, each followed by the bias
  std::int32_t* units = nullptr;
};

}  // namespace fastmaml
