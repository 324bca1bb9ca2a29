// How a long call ends early: now and then it asks whether it is to go on.
#pragma once

namespace fastmaml {

// `ask` throws where a call is to end. The thread that began the call asks, some ten times a second; a call shorter
// than that never does. Until one is set, every call runs to its end.
void set_interruption(void (*ask)());

// For kernels, between the steps of a task: throws where the call that this thread works on is to end.
void check_interruption();

}  // namespace fastmaml
