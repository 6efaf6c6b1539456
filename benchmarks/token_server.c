/* A token server of known schedule: TGI's stream over HTTP/1.1 on loopback, one write per token, epoll, one thread.
 *
 *     token_server TOKENS FIRST_MS GAP_MS        prints its port; serves POSTs until its standard input closes
 *
 * Each token's id is the CLOCK_MONOTONIC time in nanoseconds at which it was written, so a client can tell how late it was. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
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

enum { MOST = 4096, REQUEST = 65536 };

struct stream {
    int open, sent;       /* sent < 0: waiting for a request */
    uint64_t begin_ns;
    size_t have;
    char request[REQUEST];
};

static struct stream *streams[MOST];
static int tokens;
static uint64_t first_ns, gap_ns;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void write_all(int fd, const char *data, size_t size) {
    while (size > 0) {
        ssize_t n = send(fd, data, size, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) continue;
        if (n <= 0) return;
        data += n;
        size -= (size_t)n;
    }
}

static void send_token(int fd, struct stream *s) {
    char event[512], piece[768];
    int last = s->sent + 1 == tokens;
    int size = snprintf(event, sizeof event,
        "data: {\"index\":%d,\"token\":{\"id\":%llu,\"text\":\" w\",\"logprob\":-0.5,\"special\":false},"
        "\"generated_text\":%s,\"details\":", s->sent + 1, (unsigned long long)now_ns(), last ? "\"w\"" : "null");
    size += last ? snprintf(event + size, sizeof event - (size_t)size,
                     "{\"finish_reason\":\"length\",\"generated_tokens\":%d,\"seed\":null}}\n\n", tokens)
                 : snprintf(event + size, sizeof event - (size_t)size, "null}\n\n");
    int framed = snprintf(piece, sizeof piece, "%x\r\n%s\r\n%s", (unsigned)size, event, last ? "0\r\n\r\n" : "");
    write_all(fd, piece, (size_t)framed);
    s->sent = last ? -1 : s->sent + 1;
}

static uint64_t due_ns(const struct stream *s) {
    return s->begin_ns + first_ns + (uint64_t)s->sent * gap_ns;
}

static void take_request(int fd, struct stream *s) {
    ssize_t n = recv(fd, s->request + s->have, REQUEST - 1 - s->have, 0);
    if (n <= 0) {
        close(fd);
        s->open = 0;
        return;
    }
    s->have += (size_t)n;
    s->request[s->have] = 0;
    char *end = strstr(s->request, "\r\n\r\n"), *length = strcasestr(s->request, "content-length:");
    if (!end || !length || s->have < (size_t)(end + 4 - s->request) + strtoul(length + 15, NULL, 10)) return;
    static const char head[] =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    write_all(fd, head, sizeof head - 1);
    s->have = 0;
    s->sent = 0;
    s->begin_ns = now_ns();
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    tokens = atoi(argv[1]);
    first_ns = (uint64_t)(atof(argv[2]) * 1e6);
    gap_ns = (uint64_t)(atof(argv[3]) * 1e6);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), poller = epoll_create1(0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, MOST)) return 1;
    getsockname(listener, (struct sockaddr *)&address, &size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &(struct epoll_event){.events = EPOLLIN, .data.fd = listener});
    epoll_ctl(poller, EPOLL_CTL_ADD, 0, &(struct epoll_event){.events = EPOLLIN, .data.fd = 0});
    for (;;) {
        uint64_t next = UINT64_MAX, now = now_ns();
        for (int fd = 0; fd < MOST; fd++) {
            struct stream *s = streams[fd];
            if (!s || !s->open || s->sent < 0) continue;
            if (due_ns(s) <= now) send_token(fd, s);
            if (s->sent >= 0 && due_ns(s) < next) next = due_ns(s);
        }
        now = now_ns();
        uint64_t wait = next == UINT64_MAX ? 100000000ull : next > now ? next - now : 0;
        struct timespec timeout = {(time_t)(wait / 1000000000ull), (long)(wait % 1000000000ull)};
        struct epoll_event events[256];
        int ready = epoll_pwait2(poller, events, 256, &timeout, NULL);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == 0) return 0;
            if (fd != listener) {
                take_request(fd, streams[fd]);
                continue;
            }
            int client;
            while ((client = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                if (client >= MOST) {
                    close(client);
                    continue;
                }
                if (!streams[client]) streams[client] = malloc(sizeof(struct stream));
                *streams[client] = (struct stream){.open = 1, .sent = -1};
                setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                epoll_ctl(poller, EPOLL_CTL_ADD, client, &(struct epoll_event){.events = EPOLLIN, .data.fd = client});
            }
        }
    }
}
