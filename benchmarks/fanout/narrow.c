/* Producers and subscribers of many topics.

   narrow PORT STREAM_PATH PUBLISH_PATH BODY HEADER TOPICS STREAMS PRODUCERS
     In STREAM_PATH, PUBLISH_PATH and BODY the text %d stands for the number of a topic; in BODY, %t stands for the time
     of sending in ns of CLOCK_MONOTONIC, which messages bear as "t":N. HEADER is a header line of each publish call,
     or empty. Stream i is of topic i modulo TOPICS.
   Each line on standard input is a command; the answer is a line of JSON:
     open PARALLEL     opens the streams, at most PARALLEL at a time; done when each has its head
     close             closes the streams, and keeps the last id of each; the next open sends it as Last-Event-ID
     forget            forgets the ids
     publish N RATE    sends N single events to random topics over PRODUCERS connections, each of which waits for its
                       answer; at most RATE a second, 0: no limit. Done when all were received, or after 5 s without. */
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

enum { BINS = 1000000, BIN_NS = 20000, LINE = 2048, IDS = 700 };

/* One connection: a stream, or a producer (number < 0). */
struct peer { int fd, number, headed, at; uint64_t wanted; char *line, *id; };

static uint32_t bins[BINS];
static uint64_t received, ended, refused, worst, opened, answered;
static struct peer *streams, *producers;
static int port, topics, stream_count, producer_count, poller;
static const char *stream_path, *publish_path, *body_format, *header;
static char buffer[1 << 16];

static uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void die(const char *what) { perror(what); exit(1); }

static uint32_t random_number(void) {
  static uint64_t state = 88172645463325252u;
  state ^= state << 13; state ^= state >> 7; state ^= state << 17;
  return state >> 32;
}

/* Copies format with its %d and %t replaced. */
static int fill(char *to, size_t size, const char *format, int topic, uint64_t at) {
  char *p = to, *end = to + size - 24;
  for (; *format && p < end; format++) {
    if (format[0] == '%' && format[1] == 'd') p += sprintf(p, "%d", topic), format++;
    else if (format[0] == '%' && format[1] == 't') p += sprintf(p, "%llu", (unsigned long long)at), format++;
    else *p++ = *format;
  }
  *p = 0;
  return p - to;
}

static void connect_peer(struct peer *peer) {
  static int number;
  peer->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (peer->fd < 0) die("socket");
  /* Several source addresses: one has no more than 28,000 ports. */
  struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + number++ % 16)};
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int on = 1;
  setsockopt(peer->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
  setsockopt(peer->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (bind(peer->fd, (struct sockaddr *)&from, sizeof from)) die("bind");
  if (connect(peer->fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS) die("connect");
  peer->headed = peer->at = 0;
  struct epoll_event e = {.events = EPOLLOUT, .data.ptr = peer};
  if (epoll_ctl(poller, EPOLL_CTL_ADD, peer->fd, &e)) die("epoll_ctl");
}

static void wait_for_input(struct peer *peer) {
  struct epoll_event e = {.events = EPOLLIN, .data.ptr = peer};
  epoll_ctl(poller, EPOLL_CTL_MOD, peer->fd, &e);
}

static void hang_up(struct peer *peer) {
  if (peer->fd >= 0) close(peer->fd);
  peer->fd = -1;
}

static void ask_for_stream(struct peer *peer) {
  char path[1024], text[4096];
  fill(path, sizeof path, stream_path, peer->number % topics, 0);
  int n = snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n%s%s%s\r\n", path,
                   peer->id ? "Last-Event-ID: " : "", peer->id ? peer->id : "", peer->id ? "\r\n" : "");
  if (send(peer->fd, text, n, MSG_NOSIGNAL) != n) { ended++; hang_up(peer); return; }
  wait_for_input(peer);
}

static void take_line(struct peer *peer, const char *line, uint64_t at) {
  if (!strncmp(line, "id: ", 4)) {
    if (!peer->id) peer->id = malloc(IDS);
    snprintf(peer->id, IDS, "%s", line + 4);
    return;
  }
  if (strncmp(line, "data:", 5)) return;
  const char *found = strstr(line, "\"t\":");
  if (!found) return;
  uint64_t sent = strtoull(found + 4, NULL, 10), late = at > sent ? at - sent : 0;
  received++;
  if (late > worst) worst = late;
  uint64_t bin = late / BIN_NS;
  bins[bin < BINS ? bin : BINS - 1]++;
}

/* Lines of a stream. The lines that frame chunks match nothing, and no line is cut by a chunk. */
static void read_stream(struct peer *peer) {
  for (;;) {
    ssize_t n = recv(peer->fd, buffer, sizeof buffer, 0);
    if (n < 0) { if (errno == EAGAIN || errno == EINTR) return; n = 0; }
    if (n == 0) { ended++; if (!peer->headed) opened++; hang_up(peer); return; }
    uint64_t at = now();
    for (ssize_t i = 0; i < n; i++) {
      char c = buffer[i];
      if (c != '\n') {
        if (c == '\r') continue;
        if (!peer->line && !(peer->line = malloc(LINE))) die("malloc");
        if (peer->at < LINE - 1) peer->line[peer->at++] = c;
        continue;
      }
      if (peer->line) peer->line[peer->at] = 0;
      if (!peer->headed) {
        if (!strncmp(peer->line ? peer->line : "", "HTTP/1.1 ", 9) && strncmp(peer->line + 9, "200", 3)) refused++;
        if (peer->at == 0) { peer->headed = 1; opened++; }
      } else if (peer->at) {
        take_line(peer, peer->line, at);
      }
      peer->at = 0;
    }
    if (n < (ssize_t)sizeof buffer) return;
  }
}

static void publish(struct peer *peer, uint64_t due) {
  char path[1024], body[1024], text[4096];
  int topic = random_number() % topics;
  fill(path, sizeof path, publish_path, topic, 0);
  int size = fill(body, sizeof body, body_format, topic, due);
  int n = snprintf(text, sizeof text, "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n%s%sContent-Length: %d\r\n\r\n%s",
                   path, header, *header ? "\r\n" : "", size, body);
  peer->at = 0;
  peer->wanted = 0;
  if (send(peer->fd, text, n, MSG_NOSIGNAL) != n) die("publish");
}

/* Returns 1 when the whole answer was read. */
static int read_answer(struct peer *peer) {
  ssize_t n = recv(peer->fd, buffer, sizeof buffer, 0);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
  if (n <= 0) die("a producer's connection was closed");
  if (!peer->line && !(peer->line = malloc(LINE))) die("malloc");
  if (peer->at + n >= LINE) n = LINE - 1 - peer->at;
  memcpy(peer->line + peer->at, buffer, n);
  peer->at += n;
  peer->line[peer->at] = 0;
  char *head = strstr(peer->line, "\r\n\r\n");
  if (!head) return 0;
  char *length = strcasestr(peer->line, "content-length:");
  if (length && peer->line + peer->at < head + 4 + atoi(length + 15)) return 0;
  if (strncmp(peer->line + 9, "2", 1)) { fprintf(stderr, "%s\n", peer->line); exit(1); }
  return 1;
}

static void report(uint64_t took) {
  uint64_t sum = 0, p50 = 0, p99 = 0;
  for (int i = 0; i < BINS; i++) {
    sum += bins[i];
    if (!p50 && received && sum * 2 >= received) p50 = (uint64_t)(i + 1) * BIN_NS;
    if (!p99 && received && sum * 100 >= received * 99) p99 = (uint64_t)(i + 1) * BIN_NS;
  }
  printf("{\"seconds\":%.4f,\"received\":%llu,\"ended\":%llu,\"refused\":%llu,\"p50_ms\":%.3f,\"p99_ms\":%.3f,\"max_ms\":%.3f}\n",
         took / 1e9, (unsigned long long)received, (unsigned long long)ended, (unsigned long long)refused, p50 / 1e6,
         p99 / 1e6, worst / 1e6);
  fflush(stdout);
  memset(bins, 0, sizeof bins);
  received = ended = refused = worst = 0;
}

static int wait_events(struct epoll_event *events, int most, int ms) {
  int n = epoll_wait(poller, events, most, ms);
  if (n < 0 && errno != EINTR) die("epoll_wait");
  return n < 0 ? 0 : n;
}

static void open_streams(int parallel) {
  struct epoll_event events[512];
  uint64_t started = now();
  int next = 0;
  opened = 0;
  while (opened < (uint64_t)stream_count) {
    while (next < stream_count && next - (int)opened < parallel) connect_peer(&streams[next++]);
    for (int i = 0, n = wait_events(events, 512, 1000); i < n; i++) {
      struct peer *peer = events[i].data.ptr;
      if (events[i].events & EPOLLOUT) ask_for_stream(peer);
      else read_stream(peer);
    }
    if (now() - started > 300000000000u) break;
  }
  report(now() - started);
}

static void close_streams(void) {
  for (int i = 0; i < stream_count; i++) hang_up(&streams[i]);
  report(0);
}

static void run(uint64_t count, uint64_t rate) {
  struct epoll_event events[512];
  uint64_t started = now(), sent = 0, last = started, before = received, idle[producer_count], idle_count = 0;
  answered = 0;
  for (int i = 0; i < producer_count; i++) {
    if (producers[i].fd < 0) {
      producers[i].number = -1;
      connect_peer(&producers[i]);
      struct epoll_event one;
      while (wait_events(&one, 1, 1000) != 1 || one.data.ptr != &producers[i])
        if (one.data.ptr && one.data.ptr != &producers[i]) read_stream(one.data.ptr);
      wait_for_input(&producers[i]);
    }
    idle[idle_count++] = i;
  }
  started = last = now();
  while (answered < count || received < count) {
    uint64_t at = now();
    while (idle_count && sent < count && (!rate || sent * 1000000000 / rate <= at - started)) {
      /* With a rate, the time counts from when the event was due: a slow server cannot hide its queue. */
      /* In turns: a server closes a connection that is never used. */
      int next = idle[0];
      memmove(idle, idle + 1, --idle_count * sizeof *idle);
      publish(&producers[next], rate ? started + sent * 1000000000 / rate : at);
      sent++;
    }
    int ms = rate && sent < count && idle_count ? 1 : 100;
    for (int i = 0, n = wait_events(events, 512, ms); i < n; i++) {
      struct peer *peer = events[i].data.ptr;
      if (peer->number >= 0) read_stream(peer);
      else if (read_answer(peer)) { idle[idle_count++] = peer - producers; answered++; }
    }
    if (received != before) { before = received; last = now(); }
    if (answered >= count && now() - last > 5000000000u) break;
    if (now() - last > 60000000000u) break;
  }
  report((received >= count ? now() : last) - started);
}

int main(int argc, char **argv) {
  if (argc != 9) { fprintf(stderr, "see the comment in narrow.c\n"); return 1; }
  port = atoi(argv[1]); stream_path = argv[2]; publish_path = argv[3]; body_format = argv[4]; header = argv[5];
  topics = atoi(argv[6]); stream_count = atoi(argv[7]); producer_count = atoi(argv[8]);
  struct rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  poller = epoll_create1(0);
  streams = calloc(stream_count + 1, sizeof *streams);
  producers = calloc(producer_count, sizeof *producers);
  for (int i = 0; i < stream_count; i++) streams[i].number = i, streams[i].fd = -1;
  for (int i = 0; i < producer_count; i++) producers[i].number = -1, producers[i].fd = -1;
  char command[128];
  while (fgets(command, sizeof command, stdin)) {
    unsigned long long n = 0, rate = 0;
    int parallel = 0;
    if (sscanf(command, "open %d", &parallel) == 1) open_streams(parallel);
    else if (!strncmp(command, "close", 5)) close_streams();
    else if (sscanf(command, "publish %llu %llu", &n, &rate) == 2) run(n, rate);
    else if (!strncmp(command, "forget", 6)) {
      for (int i = 0; i < stream_count; i++) { free(streams[i].id); streams[i].id = NULL; }
      report(0);
    }
  }
  return 0;
}
