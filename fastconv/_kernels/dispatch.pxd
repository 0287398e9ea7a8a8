from fastconv._kernels.kernels cimport fc_kernels

# The chosen kernels for float (itemsize 4) or double (8); valid once fastconv has been imported.
cdef const fc_kernels *kernels_for(Py_ssize_t itemsize) noexcept nogil
# The same for a product of so few columns that they fill at most half of a vector: of narrower vectors, if there are any.
cdef const fc_kernels *kernels_for_columns(Py_ssize_t itemsize, Py_ssize_t columns) noexcept nogil
