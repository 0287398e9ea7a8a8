"""Which instruction set the kernels use.  The only extension that holds the C code; the drivers get its tables from here."""
from fastconv._kernels.kernels cimport fc_isa, fc_isa_count, fc_isas, fc_kernels

cdef extern from *:
    """
    #ifndef FC_SOURCES
    #define FC_SOURCES "unknown"
    #endif
    """
    const char *FC_SOURCES

cdef const fc_isa *chosen = NULL

SOURCES = FC_SOURCES.decode()  # digest of the sources that this was built from


cdef const fc_kernels *kernels_for(Py_ssize_t itemsize) noexcept nogil:
    return chosen.f32 if itemsize == 4 else chosen.f64


cdef const fc_kernels *kernels_for_columns(Py_ssize_t itemsize, Py_ssize_t columns) noexcept nogil:
    cdef const fc_kernels *narrow = chosen.narrow_f32 if itemsize == 4 else chosen.narrow_f64
    return narrow if columns <= narrow.vl else kernels_for(itemsize)


def built():
    """Names of the instruction sets in this build, best first."""
    return [fc_isas[i].name.decode() for i in range(fc_isa_count)]


def supported():
    """Those of them that this machine can run."""
    return [fc_isas[i].name.decode() for i in range(fc_isa_count) if fc_isas[i].supported()]


def select(str name):
    """Use the instruction set `name`, which the caller has found among supported()."""
    global chosen
    for i in range(fc_isa_count):
        if fc_isas[i].name.decode() == name:
            chosen = &fc_isas[i]


def selected():
    return chosen.name.decode()
