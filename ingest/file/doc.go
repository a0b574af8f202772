// Package file takes in log files: [Collector] watches files and directories and
// appends what is in them, [Merger] reads many files as one in the order of event
// time.
package file
