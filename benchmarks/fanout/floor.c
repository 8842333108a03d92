/* The floor: the cost of a plain loop of send() without HTTP, Redis or Python.

   floor PORT COUNT SIZE
     Accepts COUNT connections and answers their requests; then, for every line on standard input, sends a message of
     SIZE bytes to all of them and prints the CPU seconds of the loop. */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static double cpu(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  int count = atoi(argv[2]), size = atoi(argv[3]), on = 1;
  int listener = socket(AF_INET, SOCK_STREAM, 0), *fds = calloc(count, sizeof(int));
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 1024)) { perror("listen"); return 1; }
  puts("listening");
  fflush(stdout);
  char text[65536];
  const char *head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: floor\n\n";
  for (int i = 0; i < count; i++) {
    fds[i] = accept(listener, NULL, NULL);
    if (recv(fds[i], text, sizeof text, 0) <= 0 || send(fds[i], head, strlen(head), 0) < 0) { perror("head"); return 1; }
    setsockopt(fds[i], IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }
  memset(text, 'x', size);
  memcpy(text, "data: ", 6);
  text[size - 2] = text[size - 1] = '\n';
  char line[64];
  while (fgets(line, sizeof line, stdin)) {
    double before = cpu();
    for (int i = 0; i < count; i++)
      if (send(fds[i], text, size, MSG_DONTWAIT | MSG_NOSIGNAL) != size) { perror("send"); return 1; }
    printf("%.9f\n", cpu() - before);
    fflush(stdout);
  }
  return 0;
}
