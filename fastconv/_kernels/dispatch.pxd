from fastconv._kernels.kernels cimport fc_kernels

# The chosen kernels for float (itemsize 4) or double (8); valid once fastconv has been imported.
cdef const fc_kernels *kernels_for(Py_ssize_t itemsize) noexcept nogil
