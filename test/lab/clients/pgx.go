// pgx.go: pgx, of whichever release there is.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strings"

	"github.com/jackc/pgx/v5"
)

var events = []string{"alice", "bob", "carol", "dave"}
var ctx = context.Background()
var db *pgx.Conn

const insert = "INSERT INTO event (user_id) VALUES ($1)"

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func tell(way string, reported ...string) {
	var stored, discarded string
	must(db.QueryRow(ctx, "SELECT * FROM tally()").Scan(&stored, &discarded))
	fmt.Println(strings.Join([]string{"pgx", way, fmt.Sprint(len(events)), strings.Join(reported, " "), stored, discarded}, " | "))
}

func main() {
	var err error
	db, err = pgx.Connect(ctx, "user=writer host="+os.Getenv("PGHOST"))
	must(err)

	reported := []string{"RowsAffected"}
	for _, user := range events {
		tag, err := db.Exec(ctx, insert, user)
		must(err)
		reported = append(reported, fmt.Sprint(tag.RowsAffected()))
	}
	tell("Exec one by one", reported...)

	reported = nil
	for _, user := range events {
		var id int64
		err := db.QueryRow(ctx, insert+" RETURNING id", user).Scan(&id)
		if err == pgx.ErrNoRows {
			reported = append(reported, "ErrNoRows")
		} else {
			must(err)
			reported = append(reported, "key")
		}
	}
	tell("QueryRow one by one, RETURNING", reported...)

	batch := &pgx.Batch{}
	for _, user := range events {
		batch.Queue(insert, user)
	}
	results := db.SendBatch(ctx, batch)
	reported = []string{"RowsAffected"}
	for range events {
		tag, err := results.Exec()
		must(err)
		reported = append(reported, fmt.Sprint(tag.RowsAffected()))
	}
	must(results.Close())
	tell("SendBatch", reported...)

	var rows [][]interface{}
	for _, user := range events {
		rows = append(rows, []interface{}{user})
	}
	count, err := db.CopyFrom(ctx, pgx.Identifier{"event"}, []string{"user_id"}, pgx.CopyFromRows(rows))
	must(err)
	tell("CopyFrom", fmt.Sprint(count))
}
