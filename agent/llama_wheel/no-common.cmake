# Included by CMake right after llama.cpp's own project() call (CMAKE_PROJECT_llama.cpp_INCLUDE). The wheel
# holds libllama and libggml alone; the "common" library behind llama.cpp's command-line tools is most of the
# build's time. llama-cpp-python's CMakeLists turns it on, hence FORCE.
set(LLAMA_BUILD_COMMON OFF CACHE BOOL "" FORCE)
