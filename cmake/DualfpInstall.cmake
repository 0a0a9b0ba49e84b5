# cmake --install: headers, static libraries, the C interface, the command and a package for find_package(dualfp).

include(CMakePackageConfigHelpers)
get_property(libraries GLOBAL PROPERTY DUALFP_LIBRARIES)
install(TARGETS ${libraries} EXPORT dualfpTargets
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY dualfp/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/dualfp
        FILES_MATCHING PATTERN "*.h" PATTERN "*_internal.h" EXCLUDE)
install(TARGETS dualfp_c EXPORT dualfpTargets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES capi/dualfp.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(TARGETS dualfp_app RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(EXPORT dualfpTargets NAMESPACE dualfp::
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/dualfp)
configure_package_config_file(cmake/dualfpConfig.cmake.in ${PROJECT_BINARY_DIR}/dualfpConfig.cmake
        INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/dualfp)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/dualfpConfigVersion.cmake
        COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/dualfpConfig.cmake ${PROJECT_BINARY_DIR}/dualfpConfigVersion.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/dualfp)
