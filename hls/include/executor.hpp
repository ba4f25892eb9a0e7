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

// An instruction by its number, from the program memory or, where the program is streamed, from external memory.
template <class C>
Encoded instruction_at(const State<C>& state, const Word<C::lanes>* external, unsigned index) {
    if (!C::program_streamed) return state.program[index];
    Encoded word = 0;
    for (unsigned byte = 0; byte < INSTRUCTION_BITS / 8; ++byte) {
#pragma HLS PIPELINE II=1
        const unsigned place = index * (INSTRUCTION_BITS / 8) + byte;
        word.range(8 * byte + 7, 8 * byte) = ap_uint<8>(uint8_t(external[place / C::lanes].byte[place % C::lanes]));
    }
    return word;
}

// Run from instruction `entry` to the next Halt; returns an ErrorCause.
template <class C>
int run(State<C>& state, Word<C::lanes>* external, unsigned entry) {
    constexpr unsigned capacity = C::program_streamed ? 1u << PC_BITS : C::program_words;
    for (unsigned index = entry; index < capacity; ++index) {
        const Encoded word = instruction_at(state, external, index);
        if (opcode(word) == Opcode::HALT) return ErrorCause::NONE;
        const int cause = execute(state, external, word);
        if (cause != ErrorCause::NONE) return cause;
    }
    return ErrorCause::END_OF_PROGRAM;
}

}  // namespace hwattn

#endif
