// Makes kernel calls for another process: call_kernels ARENA LIBRARY...
//
// ARENA is a file with the memory of the calls, which both processes map. This one writes the arena's address to stdout
// (eight bytes), then reads requests from stdin and answers each with eight bytes when its call has returned. The other
// side is kernel_process.py.

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "../../../../model/kernels/cpu/replay.h"  // calls as the server replays them

namespace {

struct Request {
    char kernel[40];
    int64_t n[32];
    float f[8];
};

[[noreturn]] void fail(const char* what, const char* name) {
    std::fprintf(stderr, "call_kernels: %s %s\n", what, name);
    std::exit(1);
}

void answer(int64_t value) {
    if (write(STDOUT_FILENO, &value, sizeof value) != sizeof value) fail("cannot write to", "stdout");
}

int64_t map_arena(const char* path) {
    int file = open(path, O_RDWR);
    struct stat status;
    if (file < 0 || fstat(file, &status) != 0) fail("cannot open", path);
    void* arena = mmap(nullptr, status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (arena == MAP_FAILED) fail("cannot map", path);
    return reinterpret_cast<int64_t>(arena);
}

void* load(const char* path) {
    void* library = dlopen(path, RTLD_NOW);
    if (!library) fail("cannot load", dlerror());
    auto supported = reinterpret_cast<int (*)()>(dlsym(library, "supported"));
    if (!supported || !supported()) fail("this processor does not support", path);
    return library;
}

Call::Kernel find(const std::vector<void*>& libraries, const char* name) {
    for (void* library : libraries)
        if (void* kernel = dlsym(library, name)) return reinterpret_cast<Call::Kernel>(kernel);
    fail("no library has", name);
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 3) fail("usage:", "call_kernels ARENA LIBRARY...");
    std::vector<void*> libraries;
    for (int i = 2; i < argc; ++i) libraries.push_back(load(argv[i]));
    answer(map_arena(argv[1]));
    Request request;
    while (read(STDIN_FILENO, &request, sizeof request) == sizeof request) {
        Call call;
        call.kernel = find(libraries, request.kernel);
        std::memcpy(call.n, request.n, sizeof call.n);
        std::memcpy(call.f, request.f, sizeof call.f);
        replay_calls(&call, 1);
        answer(0);
    }
}
