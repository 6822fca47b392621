Sequel.migration do
  change { create_table(:users) { Integer :id, primary_key: true } }
end
