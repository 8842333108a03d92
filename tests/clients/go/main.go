// Reads a stream with a Go client and prints a JSON line for each message: main CLIENT URL [LAST-EVENT-ID].
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/r3labs/sse/v2"
)

func show(id, event, data string) {
	line, _ := json.Marshal(map[string]string{"id": id, "event": event, "data": data})
	fmt.Println(string(line))
}

// netHTTP reads lines as they come, without any library for SSE.
func netHTTP(url, last string) error {
	request, err := http.NewRequest("GET", url, nil)
	if err != nil {
		return err
	}
	request.Header.Set("Accept", "text/event-stream")
	if last != "" {
		request.Header.Set("Last-Event-ID", last)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 1<<24)
	id, event, data := "", "", ""
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case lines.Text() == "":
			show(id, event, data)
			event, data = "", ""
		case name == "id":
			id = value
		case name == "event":
			event = value
		case name == "data":
			data += value
		}
	}
	return lines.Err()
}

func r3labs(url, last string) error {
	client := sse.NewClient(url)
	if last != "" {
		client.LastEventID.Store([]byte(last))
	}
	return client.SubscribeRaw(func(message *sse.Event) {
		show(string(message.ID), string(message.Event), string(message.Data))
	})
}

func main() {
	last := ""
	if len(os.Args) > 3 {
		last = os.Args[3]
	}
	run := map[string]func(string, string) error{"net/http": netHTTP, "r3labs/sse": r3labs}[os.Args[1]]
	if err := run(os.Args[2], last); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
