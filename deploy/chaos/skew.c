/* Moves the wall clock of one process, and nothing else: CLOCK_REALTIME by so many seconds as the
 * file named by SKEW_FILE says, at every call. Durations and timeouts go by other clocks, as they
 * do when a machine's clock is set. Build: cc -shared -fPIC -O2 -o skew.so skew.c -ldl */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int (*real_clock_gettime)(clockid_t, struct timespec *);
static volatile const int64_t *offset_s;
static const int64_t none = 0;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("SKEW_FILE");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *mapped = MAP_FAILED;
    if (fd >= 0) {
        mapped = mmap(NULL, sizeof none, PROT_READ, MAP_SHARED, fd, 0);
        close(fd);
    }
    real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    offset_s = mapped == MAP_FAILED ? &none : mapped;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    if (!real_clock_gettime)
        begin();
    int result = real_clock_gettime(clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += *offset_s;
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec precise;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &precise) != 0)
        return -1;
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *into)
{
    struct timespec precise;
    if (clock_gettime(CLOCK_REALTIME, &precise) != 0)
        return (time_t)-1;
    if (into)
        *into = precise.tv_sec;
    return precise.tv_sec;
}
