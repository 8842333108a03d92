/* The floor: what a plain loop of send() costs, without HTTP, Redis or Python.

   floor PORT COUNT FRAMES SIZE
     Takes COUNT connections, answers their heads, and sends FRAMES messages of SIZE bytes to all of them, one message
     at a time. Prints the microseconds of CPU per send. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <netinet/tcp.h>
#include <unistd.h>

static double cpu(void) {
  struct rusage u;
  getrusage(RUSAGE_SELF, &u);
  return u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

int main(int argc, char **argv) {
  if (argc != 5) return 2;
  int count = atoi(argv[2]), frames = atoi(argv[3]), size = atoi(argv[4]), on = 1;
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
  double spent = 0;
  for (int frame = 0; frame < frames; frame++) {
    double before = cpu();
    for (int i = 0; i < count; i++)
      if (send(fds[i], text, size, MSG_DONTWAIT | MSG_NOSIGNAL) != size) { perror("send"); return 1; }
    spent += cpu() - before;
    usleep(10000);
  }
  printf("%.3f\n", spent / ((double)count * frames) * 1e6);
  return 0;
}
