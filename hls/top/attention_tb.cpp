// C simulation of the attention kernel against golden vectors of the NumPy model's functions, byte for byte.
// usage: attention_tb FOLDER [CASES]
#include <cstring>

#include "attention_top.hpp"
#include "vectors.hpp"

int main(int argc, char** argv) {
    if (argc < 2) {
        std::fprintf(stderr, "usage: %s FOLDER [CASES]\n", argv[0]);
        return 2;
    }
    const std::string folder = std::string(argv[1]) + "/";
    // one case: queries, keys, heads and p16; then its scaling entries; then q, k, v and the result
    const std::vector<uint64_t> shapes = read_file<uint64_t>(folder + "attention_shapes.bin");
    const std::vector<uint64_t> scaling = read_file<uint64_t>(folder + "attention_scaling.bin");
    const std::vector<Kernel::word_t> words = read_file<Kernel::word_t>(folder + "attention_words.bin");
    int count = int(shapes.size() / 4);
    if (argc > 2 && std::atoi(argv[2]) < count) count = std::atoi(argv[2]);

    int wrong = 0;
    const Stopwatch stopwatch;
    const uint64_t* scale = scaling.data();
    const Kernel::word_t* next = words.data();
    for (int index = 0; index < count; ++index) {
        const uint64_t* shape = shapes.data() + 4 * index;
        const size_t of_queries = shape[0] * shape[2] * Kernel::WORDS, of_keys = shape[1] * shape[2] * Kernel::WORDS;
        const Kernel::word_t *q = next, *k = q + of_queries, *v = k + of_keys, *wanted = v + of_keys;
        std::vector<Kernel::word_t> result(of_queries);
        const int cause = hwattn_attention(
            q, k, v, result.data(), scale, scale, unsigned(shape[0]), unsigned(shape[1]), unsigned(shape[2]), shape[3] != 0);
        if (cause != 0 || std::memcmp(result.data(), wanted, of_queries * sizeof(Kernel::word_t)) != 0) {
            ++wrong;
            std::printf("case %d: DIFFERENT (returned %d)\n", index, cause);
        }
        next = wanted + of_queries;
        scale += shape[2];
    }
    std::printf(
        "attention: %d cases, %d different from the NumPy model, %.2f s\n", count, wrong, stopwatch.seconds());
    return wrong || count == 0 ? 1 : 0;
}
