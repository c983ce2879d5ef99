package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/apache/rocketmq-client-go/v2/admin"
)

// Brokers tell nameservers of a new topic a moment later.
const patience = 20 * time.Second

// Makes a topic, finds it in the nameserver's list and in a route, and lists the groups; once standard input closes it deletes the
// topic. This client does not look at the codes of most answers, so whoever drives it has to look for what it did.
func administer(o options) error {
	ctx := context.Background()
	a, err := admin.NewAdmin(admin.WithResolver(o.resolver()))
	if err != nil {
		return err
	}
	queues := int(o.count)
	if err := a.CreateTopic(ctx, admin.WithTopicCreate(o.topic), admin.WithBrokerAddrCreate(o.broker),
		admin.WithReadQueueNums(queues), admin.WithWriteQueueNums(queues)); err != nil {
		return fmt.Errorf("create: %w", err)
	}
	if err := eventually(func() (bool, error) {
		topics, err := a.FetchAllTopicList(ctx)
		return err == nil && slices.Contains(topics.TopicList, o.topic), err
	}); err != nil {
		return fmt.Errorf("list of topics: %w", err)
	}
	found, err := a.FetchPublishMessageQueues(ctx, o.topic)
	if err != nil {
		return fmt.Errorf("queues: %w", err)
	}
	newLine("queues").put("queues", len(found)).print()
	groups, err := a.GetAllSubscriptionGroup(ctx, o.broker, patience)
	if err != nil {
		return fmt.Errorf("groups: %w", err)
	}
	names := []string{}
	for name := range groups.SubscriptionGroupTable {
		names = append(names, name)
	}
	newLine("groups").put("groups", names).print()
	<-stdin
	if err := a.DeleteTopic(ctx, admin.WithTopicDelete(o.topic)); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	newLine("deleted").print()
	newLine("done").print()
	return a.Close()
}

func eventually(check func() (bool, error)) error {
	for deadline := time.Now().Add(patience); ; {
		done, err := check()
		switch {
		case done:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("not within %s: %v", patience, err)
		case !pause(20):
			return fmt.Errorf("told to stop")
		}
	}
}
