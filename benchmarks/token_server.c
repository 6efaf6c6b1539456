/* A token server of known schedule: TGI's stream over HTTP/1.1 on loopback, one write per token, epoll, one thread.
 *
 *     token_server TOKENS FIRST_MS GAP_MS ALIGNED      prints its port; serves POSTs until its standard input closes
 *
 * The first token of an answer is due FIRST_MS after its request was read, the others GAP_MS after one another. ALIGNED 1 puts all of them on
 * one grid of GAP_MS, as continuous batching sends them: a first token then waits for the next line of the grid.
 * Paths below /v1/ get OpenAI's chat stream instead, and GET /v1/models its one model. When the input closes, it prints what it kept of the
 * schedule: mean milliseconds from a request to its first token, and between tokens.
 * Each of TGI's token ids is the CLOCK_MONOTONIC time in nanoseconds at which it was written, and the header x-received-ns says when the request
 * was read: so a client can tell how late its times are. */
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
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 32768, REQUEST = 4096 };

struct stream {
    int open, sent;      /* sent < 0: waiting for a request */
    int openai;          /* speaks OpenAI's chat stream */
    uint64_t wrote_ns;   /* the last token, or the request */
    unsigned turn;       /* counts the answers of this descriptor, so that what was due to an earlier one is not sent */
    size_t have;
    char request[REQUEST];
};

struct due {
    uint64_t at_ns;
    int fd;
    unsigned turn;
};

/* What is due, in order of time: first tokens and later ones are each in order by themselves. */
struct queue {
    struct due *items;
    size_t head, tail;
};

static struct stream *streams[MOST];
static struct queue firsts, laters;
static int tokens, aligned;
static uint64_t first_ns, gap_ns;
static double waited_ns[2];            /* for first tokens, and for later ones */
static unsigned long long written[2];

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void push(struct queue *queue, struct due due) {
    queue->items[queue->tail++ % (2 * MOST)] = due;
}

static const struct due *next_due(void) {
    const struct due *a = firsts.head < firsts.tail ? &firsts.items[firsts.head % (2 * MOST)] : NULL;
    const struct due *b = laters.head < laters.tail ? &laters.items[laters.head % (2 * MOST)] : NULL;
    return !a ? b : !b || a->at_ns <= b->at_ns ? a : b;
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

static int tgi_event(char *event, size_t room, uint64_t id, int index, int last) {
    int size = snprintf(event, room,
        "data: {\"index\":%d,\"token\":{\"id\":%llu,\"text\":\" w\",\"logprob\":-0.5,\"special\":false},"
        "\"generated_text\":%s,\"details\":", index, (unsigned long long)id, last ? "\"w\"" : "null");
    return size + (last ? snprintf(event + size, room - (size_t)size,
                            "{\"finish_reason\":\"length\",\"generated_tokens\":%d,\"seed\":null}}\n\n", tokens)
                        : snprintf(event + size, room - (size_t)size, "null}\n\n"));
}

static int openai_event(char *event, size_t room, int last) {
    const char *head = "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"token-server\","
                       "\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\" w\"},\"finish_reason\":%s}]";
    int size = snprintf(event, room, head, last ? "\"length\"" : "null");
    return size + (last ? snprintf(event + size, room - (size_t)size,
                            ",\"usage\":{\"prompt_tokens\":8,\"completion_tokens\":%d,\"total_tokens\":%d}}\n\ndata: [DONE]\n\n",
                            tokens, tokens + 8)
                        : snprintf(event + size, room - (size_t)size, "}\n\n"));
}

static void send_token(struct due due) {
    struct stream *s = streams[due.fd];
    if (!s->open || s->sent < 0 || s->turn != due.turn) return;
    char event[512], piece[1024];
    int last = s->sent + 1 == tokens, first = s->sent == 0;
    uint64_t now = now_ns();
    waited_ns[!first] += (double)(now - s->wrote_ns);
    written[!first]++;
    s->wrote_ns = now;
    int size = s->openai ? openai_event(event, sizeof event, last) : tgi_event(event, sizeof event, now, s->sent + 1, last);
    int framed = snprintf(piece, sizeof piece, "%x\r\n%s\r\n%s", (unsigned)size, event, last ? "0\r\n\r\n" : "");
    write_all(due.fd, piece, (size_t)framed);
    s->sent = last ? -1 : s->sent + 1;
    if (!last) push(&laters, (struct due){due.at_ns + gap_ns, due.fd, due.turn});
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
    char *end = strstr(s->request, "\r\n\r\n");
    if (end && !strncmp(s->request, "GET ", 4)) {
        const char *models = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 53\r\n\r\n"
                             "{\"object\":\"list\",\"data\":[{\"id\":\"token-server\"}]}    \n";
        write_all(fd, models, strlen(models));
        s->have = 0;
        return;
    }
    char *length = strcasestr(s->request, "content-length:");
    if (!end || !length || s->have < (size_t)(end + 4 - s->request) + strtoul(length + 15, NULL, 10)) return;
    uint64_t received_ns = now_ns();
    char head[256];
    int size = snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
        "x-received-ns: %llu\r\n\r\n", (unsigned long long)received_ns);
    write_all(fd, head, (size_t)size);
    s->openai = strstr(s->request, " /v1/") != NULL && strstr(s->request, " /v1/") < end;
    s->wrote_ns = received_ns;
    s->have = 0;
    s->sent = 0;
    s->turn++;
    uint64_t at_ns = received_ns + first_ns;
    if (aligned) at_ns = (at_ns / gap_ns + 1) * gap_ns;
    push(&firsts, (struct due){at_ns, fd, s->turn});
}

static void take_connections(int listener, int poller) {
    int client, on = 1;
    while ((client = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        if (client >= MOST) {
            close(client);
            continue;
        }
        if (!streams[client]) streams[client] = calloc(1, sizeof(struct stream));
        struct stream *s = streams[client];
        s->open = 1, s->sent = -1, s->have = 0, s->turn++;
        setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        epoll_ctl(poller, EPOLL_CTL_ADD, client, &(struct epoll_event){.events = EPOLLIN, .data.fd = client});
    }
}

int main(int argc, char **argv) {
    if (argc != 5) return 2;
    tokens = atoi(argv[1]);
    first_ns = (uint64_t)(atof(argv[2]) * 1e6);
    gap_ns = (uint64_t)(atof(argv[3]) * 1e6);
    aligned = atoi(argv[4]);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    firsts.items = calloc(2 * MOST, sizeof(struct due));
    laters.items = calloc(2 * MOST, sizeof(struct due));
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), poller = epoll_create1(0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, MOST)) return 1;
    getsockname(listener, (struct sockaddr *)&address, &size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &(struct epoll_event){.events = EPOLLIN, .data.fd = listener});
    epoll_ctl(poller, EPOLL_CTL_ADD, 0, &(struct epoll_event){.events = EPOLLIN, .data.fd = 0});
    for (;;) {
        const struct due *due;
        uint64_t now = now_ns();
        while ((due = next_due()) && due->at_ns <= now) {
            struct queue *queue = due == &firsts.items[firsts.head % (2 * MOST)] ? &firsts : &laters;
            struct due one = *due;
            queue->head++;
            send_token(one);
        }
        now = now_ns();
        uint64_t wait = !due ? 100000000ull : due->at_ns > now ? due->at_ns - now : 0;
        struct timespec timeout = {(time_t)(wait / 1000000000ull), (long)(wait % 1000000000ull)};
        struct epoll_event events[256];
        int ready = epoll_pwait2(poller, events, 256, &timeout, NULL);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == 0) {
                for (int kind = 0; kind < 2; kind++) printf("%.4f ", written[kind] ? waited_ns[kind] / 1e6 / (double)written[kind] : 0.0);
                return 0;
            }
            if (fd == listener) take_connections(listener, poller);
            else take_request(fd, streams[fd]);
        }
    }
}
