// C simulation of the machine: every image and task against the golden vectors of the NumPy model, word for word.
// usage: machine_tb FOLDER [IMAGES]
#include <cstring>

#include "machine_top.hpp"
#include "vectors.hpp"

int main(int argc, char** argv) {
    if (argc < 2) {
        std::fprintf(stderr, "usage: %s FOLDER [IMAGES]\n", argv[0]);
        return 2;
    }
    const std::string folder = std::string(argv[1]) + "/";
    std::vector<word_t> weights = read_file<word_t>(folder + "weights.bin");
    const std::vector<uint64_t> params = read_file<uint64_t>(folder + "params.bin");
    const std::vector<uint64_t> norm = read_file<uint64_t>(folder + "norm.bin");
    const std::vector<uint64_t> table = read_file<uint64_t>(folder + "table.bin");
    const std::vector<InstructionWord> program = read_file<InstructionWord>(folder + "program.bin");
    const std::vector<word_t> images = read_file<word_t>(folder + "images.bin");
    const std::vector<word_t> golden = read_file<word_t>(folder + "golden.bin");
    int count = int(images.size() / IMAGE_WORDS);
    if (argc > 2 && std::atoi(argv[2]) < count) count = std::atoi(argv[2]);

    int wrong = 0;
    bool load = true;
    const Stopwatch stopwatch;
    std::vector<word_t> output(OUTPUT_WORDS);
    for (unsigned task = 0; task < TASKS; ++task) {
        int words = 0;
        for (int port = 0; port < PORTS; ++port)
            if (PORT_TASK[port] == int(task)) words += PORT_ROWS[port] * PORT_ROW_WORDS[port];
        for (int image = 0; image < count; ++image) {
            const int cause = hwattn_machine(
                load, task, weights.data(), params.data(), norm.data(), table.data(), program.data(),
                images.data() + image * IMAGE_WORDS, output.data());
            load = false;
            const word_t* wanted = golden.data() + GOLDEN_BASE[task] + image * words;
            if (cause == 0 && std::memcmp(output.data(), wanted, words * sizeof(word_t)) == 0) continue;
            ++wrong;
            std::printf("task %u, image %d: DIFFERENT (error cause %d)\n", task, image, cause);
        }
    }
    std::printf(
        "machine: %d images of %d tasks, %d different from the NumPy model, %.2f s\n",
        count, int(TASKS), wrong, stopwatch.seconds());
    return wrong || count == 0 ? 1 : 0;
}
