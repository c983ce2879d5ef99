package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	rocketmq "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
)

func settings(o options) []consumer.Option {
	settings := []consumer.Option{
		consumer.WithNsResolver(o.resolver()),
		consumer.WithGroupName(o.group),
		consumer.WithInstance(fmt.Sprintf("%s-%d", o.group, os.Getpid())),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset),
		consumer.WithConsumerOrder(o.orderly),
	}
	if o.broadcasting {
		settings = append(settings, consumer.WithConsumerModel(consumer.BroadCasting))
	}
	if o.namespace != "" {
		settings = append(settings, consumer.WithNamespace(o.namespace))
	}
	if o.trace {
		settings = append(settings, consumer.WithTrace(o.tracing()))
	}
	if o.maxReconsume >= 0 {
		settings = append(settings, consumer.WithMaxReconsumeTimes(int32(o.maxReconsume)))
	}
	return settings
}

func newConsumer(o options) (rocketmq.PushConsumer, error) {
	return rocketmq.NewPushConsumer(settings(o)...)
}

func selector(o options) consumer.MessageSelector {
	if o.sql != "" {
		return consumer.MessageSelector{Type: consumer.SQL92, Expression: o.sql}
	}
	return consumer.MessageSelector{Type: consumer.TAG, Expression: o.tags}
}

// Deliveries, and when the last one was.
type progress struct {
	count, last atomic.Int64
}

func (p *progress) took() {
	p.count.Add(1)
	p.last.Store(now())
}

// Waits for -until deliveries, -idle milliseconds without one, or the end of standard input.
func (p *progress) wait(o options) {
	p.last.Store(now())
	ticks := time.NewTicker(20 * time.Millisecond)
	defer ticks.Stop()
	for p.count.Load() < o.until && (now()-p.last.Load())/1_000_000 < int64(o.idle) {
		select {
		case <-stdin:
			return
		case <-ticks.C:
		}
	}
}

// A push consumer; -reject N asks for the first N attempts at each message to be made again.
func consume(o options) error {
	c, err := newConsumer(o)
	if err != nil {
		return err
	}
	var seen progress
	err = c.Subscribe(o.topic, selector(o), func(ctx context.Context,
		messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		if concurrently, ok := primitive.GetConcurrentlyCtx(ctx); ok {
			concurrently.DelayLevelWhenNextConsume = o.rejectLevel
		}
		accepted := true
		for _, message := range messages {
			accepted = accepted && int(message.ReconsumeTimes) >= o.reject
			delivery(o, message, message.Queue.BrokerName)
			seen.took()
		}
		switch {
		case accepted:
			return consumer.ConsumeSuccess, nil
		case o.orderly:
			return consumer.SuspendCurrentQueueAMoment, nil
		default:
			return consumer.ConsumeRetryLater, nil
		}
	})
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	newLine("started").print()
	seen.wait(o)
	newLine("done").put("count", seen.count.Load()).print()
	return c.Shutdown()
}

func pull(o options) error {
	c, err := rocketmq.NewPullConsumer(settings(o)...)
	if err != nil {
		return err
	}
	if err := c.Subscribe(o.topic, selector(o)); err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	newLine("started").print()
	var seen progress
	go func() {
		for {
			request, err := c.Poll(context.Background(), 200*time.Millisecond)
			if consumer.IsNoNewMsgError(err) {
				continue
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, "poll:", err)
				return
			}
			for _, message := range request.GetMsgList() {
				delivery(o, message, request.GetMQ().BrokerName)
			}
			c.ACK(context.Background(), request, consumer.ConsumeSuccess)
			for range request.GetMsgList() {
				seen.took()
			}
		}
	}()
	seen.wait(o)
	if err := c.PersistOffset(context.Background(), o.topic); err != nil {
		return err
	}
	newLine("done").put("count", seen.count.Load()).print()
	return c.Shutdown()
}

func delivery(o options, message *primitive.MessageExt, broker string) {
	l := newLine("deliver").put("value", value(message.Body)).put("group", o.group).put("topic", message.Topic).
		put("broker", broker).put("queue", message.Queue.QueueId).put("offset", message.QueueOffset).
		put("tags", optional(message.GetTags())).put("keys", optional(message.GetKeys())).
		put("msg_id", message.MsgId).put("size", len(message.Body)).put("intact", intact(message.Body)).
		put("attempt", message.ReconsumeTimes).put("born_ms", message.BornTimestamp).
		put("stored_ms", message.StoreTimestamp)
	if o.properties {
		l.put("properties", message.GetProperties())
	}
	l.put("at", now()).print()
}

func optional(text string) any {
	if text == "" {
		return nil
	}
	return text
}

// The body up to the padding.
func value(body []byte) string {
	text, _, _ := bytes.Cut(body, []byte{'|'})
	return string(text)
}

func intact(body []byte) bool {
	bar := bytes.IndexByte(body, '|')
	for i := bar + 1; bar >= 0 && i < len(body); i++ {
		if body[i] != padding(i) {
			return false
		}
	}
	return true
}
