/* The floor: what reading a token costs in C. One thread, epoll, one recv a read, the time taken and the bytes kept; nothing else until the end.
 *
 *     token_client PORT STREAMS TOKENS        prints JSON: CPU a token, lag of the recorded times, error of TTFT
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { READ_BYTES = 32768 };

struct stream {
    uint64_t sent_ns, *instants;
    size_t *ends, reads, size, room;
    char *bytes;
    int done;
};

static uint64_t clock_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    int number = atoi(argv[2]), tokens = atoi(argv[3]), poller = epoll_create1(0), on = 1, left = number;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    address.sin_port = htons((uint16_t)atoi(argv[1]));
    static const char body[] = "{\"inputs\": \"Hello\", \"parameters\": {\"max_new_tokens\": 1, \"details\": true}}";
    char request[512];
    int length = snprintf(request, sizeof request, "POST /generate_stream HTTP/1.1\r\nhost: x\r\ncontent-length: %zu\r\n\r\n%s",
                          sizeof body - 1, body);
    struct stream *streams = calloc((size_t)number, sizeof *streams);
    uint64_t cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    for (int i = 0; i < number; i++) {
        struct stream *s = &streams[i];
        s->room = (size_t)tokens * 256 + READ_BYTES;
        s->bytes = malloc(s->room);
        s->instants = malloc(((size_t)tokens + 64) * sizeof *s->instants);
        s->ends = malloc(((size_t)tokens + 64) * sizeof *s->ends);
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(fd, (struct sockaddr *)&address, sizeof address)) return 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        s->sent_ns = clock_ns(CLOCK_MONOTONIC);
        if (send(fd, request, (size_t)length, 0) != length) return 1;
        struct epoll_event event = {.events = EPOLLIN, .data.u64 = (uint64_t)fd << 32 | (uint64_t)i};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
    }
    while (left) {
        struct epoll_event events[256];
        int ready = epoll_wait(poller, events, 256, 30000);
        if (ready <= 0) return 1;
        for (int k = 0; k < ready; k++) {
            struct stream *s = &streams[events[k].data.u64 & 0xffffffff];
            int fd = (int)(events[k].data.u64 >> 32);
            if (s->room - s->size < READ_BYTES) s->bytes = realloc(s->bytes, s->room *= 2);
            ssize_t n = recv(fd, s->bytes + s->size, READ_BYTES, 0);
            if (n <= 0) return 1;
            s->instants[s->reads] = clock_ns(CLOCK_MONOTONIC);
            s->ends[s->reads++] = s->size += (size_t)n;
            if (!memcmp(s->bytes + s->size - 7, "\r\n0\r\n\r\n", 7)) {
                left--;
                close(fd);
            }
        }
    }
    cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu_ns;
    size_t seen = 0;
    double *lags = malloc((size_t)number * (size_t)tokens * sizeof *lags), error = 0;
    for (int i = 0; i < number; i++) {
        struct stream *s = &streams[i];
        size_t read = 0;
        uint64_t received_ns = strtoull(strstr(s->bytes, "x-received-ns: ") + 15, NULL, 10);
        int first = 1;
        for (char *at = s->bytes; (at = memmem(at, (size_t)(s->bytes + s->size - at), "\"id\":", 5)); at += 5) {
            uint64_t written_ns = strtoull(at + 5, NULL, 10);
            while (s->ends[read] <= (size_t)(at - s->bytes)) read++;
            lags[seen++] = ((double)s->instants[read] - (double)written_ns) / 1e6;
            if (first) error += ((double)(s->instants[read] - s->sent_ns) - (double)(written_ns - received_ns)) / 1e6;
            first = 0;
        }
    }
    if (seen != (size_t)number * (size_t)tokens) return 1;
    qsort(lags, seen, sizeof *lags, ascending);
    printf("{\"cpu_us\": %.3f, \"lag_p50_ms\": %.4f, \"lag_p99_ms\": %.4f, \"ttft_error_ms\": %.4f}\n", (double)cpu_ns / 1e3 / (double)seen,
           lags[seen / 2], lags[seen * 99 / 100], error / number);
    return 0;
}
