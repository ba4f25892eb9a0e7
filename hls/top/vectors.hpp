// Files of a C simulation: arrays of plain values, and how long a part of the work took.
#ifndef HWATTN_VECTORS_HPP
#define HWATTN_VECTORS_HPP
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

// Read a whole file of values; ends the program with a message if that does not work.
template <class T>
std::vector<T> read_file(const std::string& path) {
    std::FILE* file = std::fopen(path.c_str(), "rb");
    if (!file) {
        std::fprintf(stderr, "%s cannot be read\n", path.c_str());
        std::exit(2);
    }
    std::fseek(file, 0, SEEK_END);
    const long bytes = std::ftell(file);
    std::rewind(file);
    std::vector<T> values(bytes / sizeof(T));
    const size_t found = std::fread(values.data(), sizeof(T), values.size(), file);
    std::fclose(file);
    if (found != values.size()) {
        std::fprintf(stderr, "%s is cut short\n", path.c_str());
        std::exit(2);
    }
    return values;
}

class Stopwatch {
public:
    double seconds() const {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    }

private:
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

#endif
