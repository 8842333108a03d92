/* Subscribers of event streams: opens streams, counts their messages and measures the latency.

   client PORT PATH COUNT STALLED
     Opens COUNT streams of PATH on 127.0.0.1; the last STALLED of them read only the head. Prints "ready" and the
     seconds it took; then, for every line on standard input, a JSON report of the messages since the last one.
     "t":N in a message is the time of its sending in ns of CLOCK_MONOTONIC. LAST_EVENT_ID in the environment is sent
     as a header. NAP in the environment: once all streams are open, the client polls its sockets every so many
     microseconds. A client that waits for each message is woken by each send, and a local sender pays for that; the
     slower the sender, the more often. Over a network the sender does not pay it.
   client PORT PATH COUNT churn
     Opens COUNT streams one after another; closes each after its first bytes. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
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

enum { BINS = 1000000, BIN_NS = 20000, BUFFER = 1 << 18, WINDOW = 500 };

struct stream { int fd; char line_start, headed, stalled; };
static uint32_t bins[BINS];
static uint64_t messages, bytes, samples, worst, ended;
static char buffer[BUFFER];

static uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void die(const char *what) { perror(what); exit(1); }

static int connect_to(int port, const char *path, int stalled) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (fd < 0) die("socket");
  if (stalled) { int small = 4096; setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small); }
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  /* Several source addresses: one has no more than 28,000 ports. */
  static int number;
  struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + number++ % 8)};
  int on = 1;
  setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
  if (bind(fd, (struct sockaddr *)&from, sizeof from)) die("bind");
  if (connect(fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS) die("connect");
  (void)path;
  return fd;
}

static void request(int fd, const char *path) {
  char text[2048];
  const char *id = getenv("LAST_EVENT_ID");
  int n = snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n%s%s%s\r\n",
                   path, id ? "Last-Event-ID: " : "", id ? id : "", id ? "\r\n" : "");
  if (send(fd, text, n, MSG_NOSIGNAL) != n) die("request");
}

/* Where "t": stands in a message: about where it stood in the one before. */
static const char *find_time(const char *p, const char *stop) {
  static size_t before;
  const char *found = NULL;
  if (before < (size_t)(stop - p)) found = memmem(p + before, stop - p - before, "\"t\":", 4);
  if (!found) found = memmem(p, stop - p, "\"t\":", 4);
  if (found) before = found - p > 4 ? found - p - 4 : 0;
  return found;
}

/* Whether a line is data. The size of a chunk may begin with a d, too; of a line that is cut there may be less. */
static int is_data(const char *p, const char *stop, int whole) {
  size_t size = stop - p < 5 ? stop - p : 5;
  return (size == 5 || !whole) && !memcmp(p, "data:", size);
}

static void take(struct stream *s, const char *p, size_t n, uint64_t at) {
  const char *end = p + n;
  while (p < end) {
    const char *nl = memchr(p, '\n', end - p);
    const char *stop = nl ? nl : end;
    if (s->line_start && is_data(p, stop, nl != NULL)) {
      messages++;
      const char *t = nl ? find_time(p, stop) : NULL;
      if (t) {
        uint64_t age = at - strtoull(t + 4, NULL, 10), bin = age / BIN_NS;
        bins[bin < BINS ? bin : BINS - 1]++;
        samples++;
        if (age > worst) worst = age;
      }
    }
    s->line_start = nl != NULL;
    p = nl ? nl + 1 : end;
  }
}

static double percentile(double share) {
  uint64_t wanted = (uint64_t)(samples * share), seen = 0;
  for (int i = 0; i < BINS; i++) if ((seen += bins[i]) > wanted) return i * (BIN_NS / 1e6);
  return 0;
}

static void report(void) {
  struct rusage u;
  getrusage(RUSAGE_SELF, &u);
  double cpu = u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
  printf("{\"messages\":%lu,\"bytes\":%lu,\"p50_ms\":%.2f,\"p99_ms\":%.2f,\"max_ms\":%.2f,\"ended\":%lu,\"cpu\":%.3f}\n",
         messages, bytes, percentile(0.5), percentile(0.99), worst / 1e6, ended, cpu);
  fflush(stdout);
  messages = bytes = samples = worst = 0;
  memset(bins, 0, sizeof bins);
}

static void churn(int port, const char *path, int count) {
  for (int i = 0; i < count; i++) {
    int fd = connect_to(port, path, 0);
    fcntl(fd, F_SETFL, 0);
    request(fd, path);
    size_t got = 0;
    const char *head = NULL;
    while (!head || !memchr(head + 4, '\n', buffer + got - head - 4)) {
      ssize_t n = recv(fd, buffer + got, sizeof buffer - got, 0);
      if (n <= 0) die("churn");
      got += n;
      head = memmem(buffer, got, "\r\n\r\n", 4);
    }
    close(fd);
  }
}

int main(int argc, char **argv) {
  if (argc != 5) return 2;
  int port = atoi(argv[1]), count = atoi(argv[3]), opened = 0, headed = 0, announced = 0;
  const char *path = argv[2];
  const char *given = getenv("NAP");
  int nap = given ? atoi(given) : 0;
  if (!strcmp(argv[4], "churn")) { churn(port, path, count); return 0; }
  int stalled = atoi(argv[4]);
  struct stream *streams = calloc(count, sizeof *streams);
  int poll = epoll_create1(0);
  struct epoll_event input = {.events = EPOLLIN, .data.ptr = NULL}, ready[512];
  epoll_ctl(poll, EPOLL_CTL_ADD, 0, &input);
  uint64_t begun = now();
  for (;;) {
    while (opened < count && opened - headed < WINDOW) {
      struct stream *s = &streams[opened];
      s->stalled = opened >= count - stalled;
      s->fd = connect_to(port, path, s->stalled);
      struct epoll_event e = {.events = EPOLLOUT, .data.ptr = s};
      epoll_ctl(poll, EPOLL_CTL_ADD, s->fd, &e);
      opened++;
    }
    if (announced && nap) usleep(nap);
    int n = epoll_wait(poll, ready, 512, -1);
    for (int i = 0; i < n; i++) {
      struct stream *s = ready[i].data.ptr;
      if (!s) {
        char line[64];
        if (read(0, line, sizeof line) <= 0) return 0;
        report();
        continue;
      }
      if (ready[i].events & EPOLLOUT) {
        request(s->fd, path);
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = s};
        epoll_ctl(poll, EPOLL_CTL_MOD, s->fd, &e);
        continue;
      }
      ssize_t got = recv(s->fd, buffer, s->headed ? sizeof buffer : 16384, 0);
      if (got < 0 && errno == EAGAIN) continue;
      if (got <= 0) { ended++; epoll_ctl(poll, EPOLL_CTL_DEL, s->fd, NULL); close(s->fd); continue; }
      bytes += got;
      const char *from = buffer;
      if (!s->headed) {
        const char *body = memmem(buffer, got, "\r\n\r\n", 4);
        if (!body) die("a head in one piece is expected");
        s->headed = s->line_start = 1;
        headed++;
        from = body + 4;
        if (s->stalled) epoll_ctl(poll, EPOLL_CTL_DEL, s->fd, NULL);
      }
      take(s, from, buffer + got - from, now());
    }
    if (headed == count && !announced) {
      announced = 1;
      printf("ready %.3f\n", (now() - begun) / 1e9);
      fflush(stdout);
    }
  }
}
