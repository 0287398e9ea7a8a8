"""Shares a job's tasks out among threads.  The only extension with OpenMP in it: the drivers say what a task is, and call this.

A thread takes the next few tasks whenever it has done its last ones, so that no task waits for a thread that is slower, or that
wakes up late: half of an array each would take as long as the slower half.
"""
from cython.parallel cimport parallel, threadid

from fastconv._kernels.kernels cimport fc_index, fc_pause

cdef extern from *:
    """
    #include <sched.h>
    #include <unistd.h>
    #ifdef _OPENMP
    #define FC_OPENMP _OPENMP
    #else
    #define FC_OPENMP 0
    #endif
    #define fc_add(number, n) __atomic_fetch_add(number, n, __ATOMIC_ACQ_REL)
    #define fc_read(number) __atomic_load_n(number, __ATOMIC_ACQUIRE)
    """
    const int FC_OPENMP
    fc_index fc_add(fc_index *number, fc_index n) nogil  # returns what it was
    fc_index fc_read(const fc_index *number) nogil
    int sched_yield() nogil
    int usleep(unsigned int microseconds) nogil

OPENMP_VERSION = FC_OPENMP or None

# A thread takes 1/16 of its share at once: neighbouring tasks write into the same pages and cache lines.
cdef fc_index TURNS = 16
# After so many pauses, a microsecond or two, somebody else may have the processor: perhaps the very thread that is waited for.
cdef fc_index YIELD = 64
# After so many, some milliseconds, whoever waits sleeps between two looks, as in a container that has used up its share.
cdef fc_index PATIENCE = 1 << 17
cdef unsigned int NAP = 50            # microseconds

cdef struct Phase:
    compute_task compute
    fc_index count, run               # tasks, and how many are taken at once
    fc_index taken, done              # of them

cdef struct Team:
    const void *job
    Phase[2] phase


cdef Phase phase_of(compute_task compute, fc_index count, int num_threads) noexcept nogil:
    return Phase(compute, count, max(1, count // (TURNS * num_threads)), 0, 0)


cdef void work(const void *job, Phase *phase, int thread) noexcept nogil:
    cdef fc_index first = fc_add(&phase.taken, phase.run), last, task
    while first < phase.count:
        last = min(first + phase.run, phase.count)
        for task in range(first, last):
            phase.compute(job, task, thread)
        fc_add(&phase.done, last - first)
        first = fc_add(&phase.taken, phase.run)


cdef void wait_for(const Phase *phase) noexcept nogil:
    """Awake: OpenMP's barrier would soon sleep (_build.SPIN_ROUNDS), and to wake up takes as long as a small phase."""
    cdef fc_index pauses = 0
    while fc_read(&phase.done) < phase.count:
        fc_pause()
        pauses += 1
        if pauses % YIELD == 0:
            if pauses < PATIENCE:
                sched_yield()
            else:
                usleep(NAP)


cdef void work_as_team(Team *team, int thread) noexcept nogil:
    work(team.job, &team.phase[0], thread)
    if team.phase[1].count > 0:
        wait_for(&team.phase[0])
        work(team.job, &team.phase[1], thread)


cdef void share_phases(const void *job, compute_task first, fc_index first_count, compute_task second, fc_index second_count,
                       int num_threads) noexcept:
    cdef Team team
    cdef fc_index task
    with nogil:
        if num_threads == 1 or max(first_count, second_count) <= 1:
            for task in range(first_count):
                first(job, task, 0)
            for task in range(second_count):
                second(job, task, 0)
        else:
            team.job = job
            team.phase[0] = phase_of(first, first_count, num_threads)
            team.phase[1] = phase_of(second, second_count, num_threads)
            with parallel(num_threads=num_threads):
                work_as_team(&team, threadid())


cdef void share(const void *job, compute_task compute, fc_index count, int num_threads) noexcept:
    share_phases(job, compute, count, NULL, 0, num_threads)
