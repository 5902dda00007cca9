# zig's clang, which brings every glibc's symbols along and needs no package of the system: for any of
# its targets, and for old glibcs. The PyPI package ziglang holds it.
#
#   cmake -S ops -B build-arm -DCMAKE_TOOLCHAIN_FILE=$PWD/ops/cmake/zig.cmake
#     -DSLC_ZIG=$(python -c 'import os, ziglang; print(os.path.dirname(ziglang.__file__) + "/zig")')
#     -DSLC_ZIG_CPU=aarch64
#
# glibc 2.28 is that of manylinux_2_28 and older than what any profile in targets/devices has. A g++ of
# Debian 12 leaves symbols of 2.36 in the library, which JetPack 6 (2.35) does not load.
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES SLC_ZIG SLC_ZIG_CPU)
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR ${SLC_ZIG_CPU})
# -O3 and -s (no debug information, which is nine tenths of the file) in every call: zig builds its
# libc++ for each set of such options, a minute each, and CMake's first test program wants one too.
set(options -target ${SLC_ZIG_CPU}-linux-gnu.2.28 -O3 -s)
set(CMAKE_CXX_COMPILER ${SLC_ZIG} c++ ${options})
set(CMAKE_ASM_COMPILER ${SLC_ZIG} cc ${options})
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
