// Runs a program in its sequential order, which defines its meaning, as sim/model/executor.py; tokens are of no use to it.
#ifndef HWATTN_EXECUTOR_HPP
#define HWATTN_EXECUTOR_HPP
#include "external.hpp"
#include "layernorm.hpp"
#include "loader.hpp"
#include "matrix.hpp"
#include "post.hpp"
#include "router.hpp"
#include "softmax.hpp"

namespace hwattn {

// Run one instruction that is not Halt; returns an ErrorCause. `external` is the memory behind the weight buffer, if there is one.
template <class C>
int execute(State<C>& state, Word<C::lanes>* external, const Encoded& word) {
    switch (opcode(word)) {
        case Opcode::LOAD: load(state, Load(word)); break;
        case Opcode::COPY: copy(state, Copy(word)); break;
        case Opcode::MATMUL: matmul(state, Matmul(word)); break;
        case Opcode::POST: post(state, Post(word)); break;
        case Opcode::SOFTMAX: softmax(state, Softmax(word)); break;
        case Opcode::NORM: norm(state, Norm(word)); break;
        case Opcode::ROUTE: route(state, Route(word)); break;
        case Opcode::FETCH: fetch(state, external, Fetch(word)); break;
        case Opcode::STORE: store(state, external, Store(word)); break;
        default: return ErrorCause::UNKNOWN_INSTRUCTION;
    }
    return ErrorCause::NONE;
}

// Run from instruction `entry` to the next Halt; returns an ErrorCause.
template <class C>
int run(State<C>& state, Word<C::lanes>* external, unsigned entry) {
    for (unsigned index = entry; index < C::program_words; ++index) {
        if (opcode(state.program[index]) == Opcode::HALT) return ErrorCause::NONE;
        const int cause = execute(state, external, state.program[index]);
        if (cause != ErrorCause::NONE) return cause;
    }
    return ErrorCause::END_OF_PROGRAM;
}

}  // namespace hwattn

#endif
