# The three kinds of target in this tree. Every folder's CMakeLists.txt is a list of these calls.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()

find_program(DUALFP_CCACHE ccache)
if(DUALFP_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${DUALFP_CCACHE})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${DUALFP_CCACHE})
endif()

# Warnings and sanitizers for our own C++ code; nvcc's host pass takes neither.
add_library(dualfp_options INTERFACE)
target_compile_options(dualfp_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wshadow -Wno-missing-field-initializers>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # GCC 12 sees overlapping copies in std::string's own operator+ (GCC bug 105651).
  target_compile_options(dualfp_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict>)
endif()
if(DUALFP_WERROR)
  target_compile_options(dualfp_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
endif()
if(DUALFP_SANITIZE)
  target_compile_options(dualfp_options INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${DUALFP_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all>)
  target_link_options(dualfp_options INTERFACE -fsanitize=${DUALFP_SANITIZE})
endif()

# dualfp_library(NAME SOURCES file... [DEPS target...] [PRIVATE_DEPS target...])
# A layer: target dualfp_NAME, alias dualfp::NAME. Headers are included as "dualfp/NAME/x.h".
function(dualfp_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS;PRIVATE_DEPS" ${ARGN})
  set(target dualfp_${name})
  if(ARG_SOURCES)
    add_library(${target} STATIC ${ARG_SOURCES})
    set(scope PUBLIC)
    target_link_libraries(${target} PRIVATE $<BUILD_INTERFACE:dualfp_options> ${ARG_PRIVATE_DEPS})
  else()
    add_library(${target} INTERFACE)
    set(scope INTERFACE)
  endif()
  add_library(dualfp::${name} ALIAS ${target})
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${name})
  target_compile_features(${target} ${scope} cxx_std_20)
  target_include_directories(${target} ${scope}
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  target_link_libraries(${target} ${scope} ${ARG_DEPS})
  set_property(GLOBAL APPEND PROPERTY DUALFP_LIBRARIES ${target})
endfunction()

# dualfp_test(NAME SOURCES file... [DEPS target...] [TIMEOUT seconds])
# One GoogleTest binary; each of its tests becomes a ctest test.
function(dualfp_test name)
  if(NOT DUALFP_BUILD_TESTS)
    return()
  endif()
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;DEPS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE dualfp_options ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  include(GoogleTest)
  gtest_discover_tests(${name} DISCOVERY_TIMEOUT 60 TEST_PREFIX ${name}. PROPERTIES TIMEOUT ${ARG_TIMEOUT})
endfunction()

# dualfp_python_test(NAME SCRIPT file [TIMEOUT seconds])
# A pytest file run with the test environment's interpreter (tools/install_dependencies.sh makes
# it); DUALFP_BINARY names the command under test.
function(dualfp_python_test name)
  if(NOT DUALFP_BUILD_TESTS)
    return()
  endif()
  cmake_parse_arguments(ARG "" "SCRIPT;TIMEOUT" "" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 600)
  endif()
  add_test(NAME python.${name}
    COMMAND ${DUALFP_PYTHON} -m pytest -q -p no:cacheprovider ${CMAKE_CURRENT_SOURCE_DIR}/${ARG_SCRIPT})
  set_tests_properties(python.${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS python
    ENVIRONMENT "DUALFP_BINARY=${PROJECT_BINARY_DIR}/dualfp;DUALFP_BUILD_DIR=${PROJECT_BINARY_DIR};DUALFP_SOURCE_DIR=${PROJECT_SOURCE_DIR};PYTHONDONTWRITEBYTECODE=1")
endfunction()
