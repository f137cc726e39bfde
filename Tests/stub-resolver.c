// Finds each name of its input, after `4`, `6` or `u` for the family, by the C library it was linked with: prints the line, the
// code of getaddrinfo(3), and the addresses.
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <arpa/inet.h>
int main(int argc, char **argv) {
    char line[512];
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        struct addrinfo hints = {0}, *list = 0;
        hints.ai_socktype = SOCK_STREAM;
        int family = line[0] == '4' ? AF_INET : line[0] == '6' ? AF_INET6 : AF_UNSPEC;
        hints.ai_family = family;
        int code = getaddrinfo(line + 2, 0, &hints, &list);
        printf("%s %d", line, code);
        for (struct addrinfo *a = list; a; a = a->ai_next) {
            char text[64];
            void *from = a->ai_family == AF_INET ? (void *)&((struct sockaddr_in *)a->ai_addr)->sin_addr : (void *)&((struct sockaddr_in6 *)a->ai_addr)->sin6_addr;
            printf(" %s", inet_ntop(a->ai_family, from, text, sizeof text));
        }
        printf("\n"); fflush(stdout);
        if (list) freeaddrinfo(list);
    }
}
