// The machine that machine.cpp makes of the library: the same Program as the RTL's, run in its sequential order.
#ifndef HWATTN_MACHINE_TOP_HPP
#define HWATTN_MACHINE_TOP_HPP
#include "config.hpp"
#include "machine.hpp"
#include "model.hpp"

using namespace hwattn;

typedef State<Config>::word_t word_t;

// Run a task on one image, the memories filled first if `load` is set. With external memory `weights` is that memory: it is read, and written
// behind the weights, in every run. `image` is IMAGE_WORDS words (int8, channels x height x width),
// `output` receives the words of the task's outputs,
// row by row. Returns an ErrorCause; tasks that do not exist
// are END_OF_PROGRAM.
extern "C" int hwattn_machine(
    bool load,
    unsigned task,
    word_t* weights,
    const uint64_t* params,
    const uint64_t* norm,
    const uint64_t* table,
    const InstructionWord* program,
    const word_t* image,
    word_t* output);

#endif
