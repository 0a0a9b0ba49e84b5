# What scikit-build-core packs into the wheel (pyproject.toml): the component `python`.

# dualfp_install_wheel(BUILD): the libraries that a build folder's `dualfp_wheel` leaves there.
function(dualfp_install_wheel build)
  install(DIRECTORY ${build}/lib/ DESTINATION dualfp/lib COMPONENT python EXCLUDE_FROM_ALL
    FILES_MATCHING PATTERN "libdualfp_*.so.1" PATTERN "_torch_ops.so")
endfunction()
