// Command webui measures the web UI on a real server whose job has many stages: how long its calls take, how soon a browser
// paints and draws the graph, what the page weighs, and what an open page costs the server in CPU and memory.
//
//	go run ./benchmarks/webui --binary .build/tinyrunner --python .build/venv/bin/python
//
// It needs chromium on the PATH. The last line is a JSON object. The job is nearly idle, so that what the page costs can be
// seen; the machine should be, too.
package main
