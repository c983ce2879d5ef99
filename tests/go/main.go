// RocketMQ's Go client, as the tests drive it. Output is one JSON object per line, as tests/java/raftmq prints them.
//
//	send          -topic T -count N [-mode sync,async,oneway,batch,ordered] [-rate R] [-size B] [-tags A,B] [-keys P] [-delay L] [-trace]
//	failover      -topic T -mode M [-rate R] [-trace]: sends until standard input closes
//	transactions  -topic T -group G -count N [-decisions D,D] [-rate R] [-retries N] [-undecided]: until standard input closes
//	request       -topic T -count N [-rate R]          reply  -topic T -group G: until standard input closes
//	consume       -topic T -group G [-tags 'A || B'] [-sql E] [-broadcasting] [-orderly] [-reject N] [-reject-level L]
//	              [-max-reconsume N] [-until N] [-idle MS] [-trace]
//	pull          -topic T -group G [-until N] [-idle MS]
//	admin         -topic T -broker ADDRESS -count Q: makes a topic of Q queues there, and deletes it once standard input closes
//
// With -namespace S a producer or push consumer works in that namespace.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/rlog"
)

type options struct {
	namesrv, topic, group, mode, prefix, tags, sql, keys, decisions, namespace, broker string
	count, until                                                                       int64
	size, batch, delay, reject, rejectLevel, idle, retries                             int
	maxReconsume                                                                       int
	rate                                                                               float64
	broadcasting, orderly, trace, properties, undecided                                bool
}

func parse(arguments []string) options {
	var o options
	f := flag.NewFlagSet("go client", flag.ExitOnError)
	f.StringVar(&o.namesrv, "namesrv", os.Getenv("NAMESRV_ADDR"), "")
	f.StringVar(&o.topic, "topic", "", "")
	f.StringVar(&o.group, "group", "go", "")
	f.StringVar(&o.mode, "mode", "sync", "")
	f.StringVar(&o.prefix, "prefix", "go", "")
	f.StringVar(&o.tags, "tags", "", "")
	f.StringVar(&o.sql, "sql", "", "")
	f.StringVar(&o.keys, "keys", "", "")
	f.StringVar(&o.decisions, "decisions", "commit,rollback,later-commit,later-rollback", "")
	f.StringVar(&o.namespace, "namespace", "", "")
	f.StringVar(&o.broker, "broker", "", "")
	f.Int64Var(&o.count, "count", 1, "")
	f.Int64Var(&o.until, "until", 1<<62, "")
	f.IntVar(&o.size, "size", 0, "")
	f.IntVar(&o.batch, "batch", 4, "")
	f.IntVar(&o.delay, "delay", 0, "")
	f.IntVar(&o.reject, "reject", 0, "")
	f.IntVar(&o.rejectLevel, "reject-level", 0, "")
	f.IntVar(&o.maxReconsume, "max-reconsume", -1, "")
	f.IntVar(&o.idle, "idle", 1<<40, "")
	f.IntVar(&o.retries, "retries", 2, "")
	f.Float64Var(&o.rate, "rate", 0, "")
	f.BoolVar(&o.broadcasting, "broadcasting", false, "")
	f.BoolVar(&o.orderly, "orderly", false, "")
	f.BoolVar(&o.trace, "trace", false, "")
	f.BoolVar(&o.properties, "properties", false, "")
	f.BoolVar(&o.undecided, "undecided", false, "")
	_ = f.Parse(arguments)
	return o
}

func (o options) resolver() primitive.NsResolver {
	return primitive.NewPassthroughResolver(strings.Split(o.namesrv, ";"))
}

// Traces go to RMQ_SYS_TRACE_TOPIC, which must be there: this client makes no topic for them.
func (o options) tracing() *primitive.TraceConfig {
	return &primitive.TraceConfig{GroupName: o.group, Access: primitive.Local, Resolver: o.resolver()}
}

// Closed once standard input is.
var stdin = make(chan struct{})

func main() {
	rlog.SetLogLevel("warn")
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "name a scenario; see main.go")
		os.Exit(2)
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(stdin)
	}()
	o := parse(os.Args[2:])
	scenarios := map[string]func(options) error{
		"send": send, "failover": failover, "transactions": transactions, "request": request, "reply": reply,
		"consume": consume, "pull": pull, "admin": administer,
	}
	scenario, known := scenarios[os.Args[1]]
	if !known {
		fmt.Fprintln(os.Stderr, "no scenario named", os.Args[1])
		os.Exit(2)
	}
	if err := scenario(o); err != nil {
		fmt.Fprintln(os.Stderr, os.Args[1]+":", err)
		os.Exit(1)
	}
}
