package main

import (
	"context"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	rocketmq "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

// How many queues `ordered` messages are spread over, at most.
const shards = 5

// Requests wait so long for a reply.
const ttl = 5 * time.Second

type sender struct {
	options
	producer rocketmq.Producer
	waiting  sync.WaitGroup
}

func newSender(o options, mode string) (*sender, error) {
	o.mode = mode
	settings := []producer.Option{
		producer.WithNsResolver(o.resolver()),
		producer.WithGroupName(o.group + "_" + mode),
		producer.WithInstanceName(mode),
		producer.WithRetry(2),
	}
	if o.trace {
		settings = append(settings, producer.WithTrace(o.tracing()))
	}
	if o.namespace != "" {
		settings = append(settings, producer.WithNamespace(o.namespace))
	}
	if mode == "ordered" {
		settings = append(settings, producer.WithQueueSelector(producer.NewHashQueueSelector()))
	}
	p, err := rocketmq.NewProducer(settings...)
	if err != nil {
		return nil, err
	}
	return &sender{options: o, producer: p}, p.Start()
}

// Messages of each mode in turn. The client sends its traces a moment later, so -trace goes on until standard input closes.
func send(o options) error {
	for _, mode := range strings.Split(o.mode, ",") {
		s, err := newSender(o, mode)
		if err != nil {
			return err
		}
		s.loop(o.count)
		s.waiting.Wait()
		if err := s.producer.Shutdown(); err != nil {
			return err
		}
	}
	if o.trace {
		<-stdin
	}
	newLine("done").print()
	return nil
}

func failover(o options) error {
	s, err := newSender(o, o.mode)
	if err != nil {
		return err
	}
	newLine("started").print()
	s.loop(math.MaxInt64)
	s.waiting.Wait()
	newLine("done").print()
	return s.producer.Shutdown()
}

func (s *sender) loop(count int64) {
	step := int64(1)
	if s.mode == "batch" {
		step = int64(s.batch)
	}
	for n := int64(0); n < count; n += step {
		s.one(n, min(step, count-n))
		if !pause(s.rate) {
			return
		}
	}
}

// Waits for the next send; false once standard input is closed.
func pause(rate float64) bool {
	var wait time.Duration
	if rate > 0 {
		wait = time.Duration(float64(time.Second) / rate)
	}
	select {
	case <-stdin:
		return false
	case <-time.After(wait):
		return true
	}
}

func (s *sender) one(first, count int64) {
	var values []string
	var messages []*primitive.Message
	for n := first; n < first+count; n++ {
		value := fmt.Sprintf("%s-%s-%d", s.prefix, s.mode, n)
		values = append(values, value)
		messages = append(messages, s.message(n, value))
	}
	begin := now()
	ctx := context.Background()
	switch s.mode {
	case "async":
		s.waiting.Add(1)
		err := s.producer.SendAsync(ctx, func(_ context.Context, result *primitive.SendResult, err error) {
			s.report(values, result, err, begin)
			s.waiting.Done()
		}, messages...)
		if err != nil {
			s.report(values, nil, err, begin)
			s.waiting.Done()
		}
	case "oneway":
		s.report(values, nil, s.producer.SendOneWay(ctx, messages...), begin)
	default:
		result, err := s.producer.SendSync(ctx, messages...)
		s.report(values, result, err, begin)
	}
}

func (s *sender) message(n int64, value string) *primitive.Message {
	message := primitive.NewMessage(s.topic, body(value, s.size))
	if s.tags != "" {
		tags := strings.Split(s.tags, ",")
		message.WithTag(tags[n%int64(len(tags))])
	}
	if s.keys != "" {
		message.WithKeys([]string{fmt.Sprintf("%s-%d", s.keys, n)})
	}
	if s.delay > 0 {
		message.WithDelayTimeLevel(s.delay)
	}
	if s.mode == "ordered" {
		message.WithShardingKey(fmt.Sprintf("shard-%d", n%shards))
	}
	message.WithProperty("n", fmt.Sprint(n))
	return message
}

func (s *sender) report(values []string, result *primitive.SendResult, err error, begin int64) {
	l := newLine("send").put("mode", s.mode).put("topic", s.topic).put("values", values)
	if err == nil && result != nil && result.Status != primitive.SendOK {
		err = fmt.Errorf("status %d", result.Status)
	}
	l.put("ok", err == nil)
	if err != nil {
		l.put("error", err.Error())
	} else if result != nil {
		l.put("broker", result.MessageQueue.BrokerName).put("queue", result.MessageQueue.QueueId).
			put("offset", result.QueueOffset).put("msg_id", result.MsgID).put("offset_msg_id", result.OffsetMsgID)
	}
	l.put("start", begin).put("end", now()).print()
}

// A value, and padding that depends on the position alone: tests/java/raftmq/Body.java.
func body(value string, size int) []byte {
	body := []byte(value)
	if size > len(body) {
		body = append(body, '|')
		for len(body) < size {
			body = append(body, padding(len(body)))
		}
	}
	return body
}

func padding(position int) byte {
	return byte('a' + position%26)
}

// With undecided, everything stays open for ever.
type decider struct {
	undecided bool
}

// How a transaction ends is written on the message: tests/java/raftmq/Transactions.java.
func (d decider) decide(message *primitive.Message, check bool) primitive.LocalTransactionState {
	decision := message.GetProperty("decision")
	switch {
	case d.undecided:
		return primitive.UnknowState
	case decision == "commit", decision == "later-commit" && check:
		return primitive.CommitMessageState
	case decision == "rollback", decision == "later-rollback" && check:
		return primitive.RollbackMessageState
	default:
		return primitive.UnknowState
	}
}

func (d decider) ExecuteLocalTransaction(message *primitive.Message) primitive.LocalTransactionState {
	return d.decide(message, false)
}

func (d decider) CheckLocalTransaction(message *primitive.MessageExt) primitive.LocalTransactionState {
	newLine("check").put("value", value(message.Body)).put("topic", message.Topic).put("msg_id", message.MsgId).
		put("at", now()).print()
	return d.decide(&message.Message, true)
}

func transactions(o options) error {
	p, err := rocketmq.NewTransactionProducer(decider{o.undecided},
		producer.WithNsResolver(o.resolver()), producer.WithGroupName(o.group), producer.WithRetry(o.retries))
	if err != nil {
		return err
	}
	if err := p.Start(); err != nil {
		return err
	}
	decisions := strings.Split(o.decisions, ",")
	for n := int64(0); n < o.count; n++ {
		decision := decisions[n%int64(len(decisions))]
		value := fmt.Sprintf("%s-%s-%d", o.prefix, decision, n)
		message := primitive.NewMessage(o.topic, []byte(value))
		message.WithProperty("decision", decision)
		begin := now()
		result, err := p.SendMessageInTransaction(context.Background(), message)
		l := newLine("send").put("mode", decision).put("topic", o.topic).put("values", []string{value}).
			put("ok", err == nil)
		if err != nil {
			l.put("error", err.Error())
		} else {
			l.put("broker", result.MessageQueue.BrokerName).put("queue", result.MessageQueue.QueueId).
				put("offset", result.QueueOffset).put("msg_id", result.MsgID)
		}
		l.put("start", begin).put("end", now()).print()
		if !pause(o.rate) {
			break
		}
	}
	<-stdin
	newLine("done").print()
	return p.Shutdown()
}

func request(o options) error {
	s, err := newSender(o, "request")
	if err != nil {
		return err
	}
	for n := int64(0); n < o.count; n++ {
		value := fmt.Sprintf("%s-request-%d", o.prefix, n)
		begin := now()
		reply, err := s.producer.Request(context.Background(), ttl, primitive.NewMessage(o.topic, []byte(value)))
		l := newLine("request").put("value", value).put("ok", err == nil)
		if err != nil {
			l.put("error", err.Error())
		} else {
			l.put("reply", string(reply.Body))
		}
		l.put("start", begin).put("end", now()).print()
		if !pause(o.rate) {
			break
		}
	}
	newLine("done").print()
	return s.producer.Shutdown()
}

func reply(o options) error {
	s, err := newSender(o, "reply")
	if err != nil {
		return err
	}
	c, err := newConsumer(o)
	if err != nil {
		return err
	}
	err = c.Subscribe(o.topic, consumer.MessageSelector{}, func(ctx context.Context,
		messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		for _, message := range messages {
			l := newLine("replied").put("value", value(message.Body))
			err := answer(ctx, s.producer, message)
			l.put("ok", err == nil)
			if err != nil {
				l.put("error", err.Error())
			}
			l.print()
		}
		return consumer.ConsumeSuccess, nil
	})
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	newLine("started").print()
	<-stdin
	newLine("done").print()
	return c.Shutdown()
}

// CreateReplyMessage of v2.1.2 leaves the body out, which Apache's broker answers with a NullPointerException. And a client
// may send its first request before its first heartbeat; until then the broker does not know whom the reply is for.
func answer(ctx context.Context, p rocketmq.Producer, message *primitive.MessageExt) error {
	reply, err := consumer.CreateReplyMessage(message, nil)
	if err != nil {
		return err
	}
	reply.Body = []byte("re: " + value(message.Body))
	for deadline := time.Now().Add(ttl); ; {
		if _, err = p.SendSync(ctx, reply); err == nil || time.Now().After(deadline) || !pause(10) {
			return err
		}
	}
}
