# Third-party packages: all from the distribution (tools/install_dependencies.sh).

find_package(Threads REQUIRED)
find_package(nlohmann_json 3.10 REQUIRED)
find_package(fmt 9 REQUIRED)
find_package(spdlog 1.10 REQUIRED)
find_package(CLI11 2.1 REQUIRED)
find_package(Boost 1.81 REQUIRED CONFIG)
find_package(OpenSSL 3 REQUIRED)
find_package(ZLIB REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)
if(DUALFP_BUILD_TESTS)
  find_package(GTest 1.12 REQUIRED)
endif()
if(DUALFP_BUILD_BENCHMARKS)
  find_package(benchmark 1.7 REQUIRED)
endif()

# The interpreter that runs the Python tests and tools: the project's own environment where it
# exists, else whatever python3 is on the path.
find_program(DUALFP_PYTHON python3 HINTS ${PROJECT_SOURCE_DIR}/.venv/bin)
if(DUALFP_BUILD_TESTS AND NOT DUALFP_PYTHON)
  message(FATAL_ERROR "The tests need python3 (tools/install_dependencies.sh --tests installs it)")
endif()
